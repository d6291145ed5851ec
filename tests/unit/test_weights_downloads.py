"""Downloads from a hub on this machine that misbehaves in every way that hubs do."""

import asyncio
import json
import os
from pathlib import Path

import huggingface_hub
import msgspec
import pytest
from fakes.hub.process import fake_hub
from fakes.hub.server import TOKEN

from xinfer.catalog import hubs
from xinfer.catalog.sources import DEMO_FOLDER, hub_source
from xinfer.catalog.weight_sets import WeightSet
from xinfer.errors import Conflict, DownloadFailed, InvalidRequest, NotFound
from xinfer.ops import Kind
from xinfer.settings import Settings
from xinfer.spec import Format
from xinfer.worker.weights import fetch as fetching
from xinfer.worker.weights.downloads import Downloads
from xinfer.worker.weights.fetch import fetch
from xinfer.worker.weights.keeper import WeightKeeper
from xinfer.worker.weights.progress import unseen
from xinfer.worker.weights.store import WeightStore

MIB = 1024 * 1024
WEIGHTS = os.urandom(3 * MIB)
FILES = {
    "config.json": b'{"a": 1}',
    "tokenizer.json": os.urandom(100_000),
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": os.urandom(1000),
}
NEEDED = ("config.json", "tokenizer.json", "model.safetensors")


@pytest.fixture(scope="module")
def running_hub(tmp_path_factory):
    with fake_hub(tmp_path_factory.mktemp("hub")) as hub:
        hub.add("me/mine", FILES)
        yield hub


@pytest.fixture
def hub(running_hub, monkeypatch, tmp_path):
    running_hub.behave()
    monkeypatch.setattr(hubs, "PAUSE_S", 0.0)
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    yield running_hub
    running_hub.behave()


@pytest.fixture
def settings(hub, tmp_path):
    return Settings(
        home=tmp_path / "home", token_file=tmp_path / "token", hf_endpoint=hub.url, ms_endpoint=f"{hub.url}/"
    )


def sets(*sources, weights_format=Format.SAFETENSORS):
    return [WeightSet(hub_source(source), weights_format) for source in sources]


def download(settings, *sources, weights_format=Format.SAFETENSORS, show=unseen, verify=False):
    wanted = sets(*sources or ["hf:me/mine"], weights_format=weights_format)
    return asyncio.run(fetch(WeightStore(settings), settings, wanted, show, verify=verify))


def refusal(settings, *sources):
    with pytest.raises(DownloadFailed) as refused:
        download(settings, *sources)
    return refused.value.message


def assert_right(record):
    assert {path: (record.path / path).read_bytes() for path in NEEDED} == {path: FILES[path] for path in NEEDED}


@pytest.mark.parametrize("source", ["hf:me/mine", "ms:me/mine"])
def test_what_is_needed_is_downloaded_once(hub, settings, source):
    record = download(settings, source)
    assert_right(record)
    assert hub.sent == {path: len(FILES[path]) for path in NEEDED}
    assert record.size == sum(hub.sent.values())
    assert WeightStore(settings).find(*sets(source)) == record
    hub.behave()
    assert download(settings, source).path == record.path
    assert hub.sent == {}


def test_progress_is_true_to_the_byte(hub, settings):
    seen = []
    download(settings, show=seen.append)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert seen[-1].done == seen[-1].total == sum(len(FILES[path]) for path in NEEDED)
    assert {file.name for file in seen[-1].files} == set(NEEDED)


def test_hugging_faces_library_finds_what_we_downloaded_and_we_find_what_it_did(hub, settings, tmp_path):
    record = download(settings)
    cache = settings.home / "models" / "huggingface"
    found = huggingface_hub.snapshot_download("me/mine", cache_dir=cache, local_files_only=True)
    assert record.path.samefile(found)
    theirs = msgspec.structs.replace(settings, home=tmp_path / "other", hf_cache=str(tmp_path / "theirs"))
    huggingface_hub.snapshot_download("me/mine", cache_dir=theirs.hf_cache, endpoint=hub.url)
    hub.behave()
    assert_right(download(theirs))
    assert hub.sent == {}
    offline = msgspec.structs.replace(theirs, home=tmp_path / "third", offline=True)
    hub.behave()
    assert_right(download(offline))
    assert hub.requests == []


def test_a_connection_that_breaks_is_gone_on_with(hub, settings):
    hub.behave(cut_after=MIB)
    assert_right(download(settings))
    assert hub.sent["model.safetensors"] < len(WEIGHTS) + MIB // 2
    ranges = [one["headers"].get("range") for one in hub.requests if "contents/me/mine/model" in one["path"]]
    assert ranges[0] is None
    assert int(ranges[-1].removeprefix("bytes=").rstrip("-")) >= MIB // 2


def test_a_hub_that_cannot_go_on_sends_the_whole_again(hub, settings):
    hub.behave(cut_after=MIB, no_range=True)
    assert_right(download(settings))
    assert hub.sent["model.safetensors"] >= len(WEIGHTS) + MIB


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_hub_in_trouble_is_asked_again(hub, settings, status):
    hub.behave(status=status, times=3, retry_after=0)
    assert_right(download(settings))


def test_a_hub_that_stays_in_trouble_is_given_up(hub, settings):
    hub.behave(status=503, retry_after=0)
    assert "127.0.0.1 answers 503 for me/mine" in refusal(settings)
    assert len(hub.requests) == hubs.DOWNLOAD.attempts


def test_a_hub_that_asks_for_long_patience_is_not_waited_for(hub, settings):
    hub.behave(status=429, retry_after=3600)
    assert "answers 429 for me/mine; try again in 3600 s" in refusal(settings)
    assert len(hub.requests) == 1


def test_gated_weights_need_a_token(hub, settings, monkeypatch):
    hub.behave(gated=True)
    message = refusal(settings)
    assert "it may be gated or private" in message
    assert "HF_TOKEN=TOKEN" in message
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert "with the token of HF_TOKEN, ask for access at https://huggingface.co/me/mine" in refusal(settings)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert_right(download(settings))


def test_private_weights_look_like_none_to_strangers(hub, settings, monkeypatch):
    hub.behave(private=True)
    assert "127.0.0.1 has no me/mine, or not for us (401)" in refusal(settings)
    assert "if it is private, start the supervisor and the workers with MODELSCOPE_API_TOKEN=TOKEN" in refusal(
        settings, "ms:me/mine"
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert_right(download(settings))


def test_a_token_is_in_no_error_and_in_no_setting(hub, settings, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.behave(status=403)
    assert "hf_secret" not in refusal(settings)
    assert "hf_secret" not in repr(Settings.from_env()) + str(Settings.from_env().environment())


def test_a_repository_that_there_is_not(hub, settings):
    assert "127.0.0.1 has no me/nothing, or not for us (404)" in refusal(settings, "hf:me/nothing")
    assert "at revision v9" in refusal(settings, "hf:me/mine@v9")


def test_the_other_hub_is_asked_where_one_has_it_not(hub, settings):
    record = download(settings, "hf:me/nothing", "ms:me/mine")
    assert record.source == "ms:me/mine"
    assert "modelscope" in str(record.path)


@pytest.mark.parametrize(("model_src", "hub_name"), [("huggingface", "hf"), ("modelscope", "ms")])
def test_the_settings_say_which_hub(hub, settings, model_src, hub_name):
    settings = msgspec.structs.replace(settings, model_src=model_src)
    assert download(settings, "hf:me/mine", "ms:me/mine").source == f"{hub_name}:me/mine"
    other = {"hf": "ms", "ms": "hf"}[hub_name]
    assert f"XINFER_MODEL_SRC is {model_src}" in refusal(settings, f"{other}:me/mine")


def test_a_wrong_hash_is_repaired_once_and_refused_twice(hub, settings):
    hub.behave(lie="model.safetensors", lies=1)
    assert_right(download(settings))
    other = msgspec.structs.replace(settings, home=settings.home / "other")
    hub.behave(lie="model.safetensors", lies=2)
    assert "its hash is another one, twice" in refusal(other)
    assert WeightStore(other).records() == []
    assert not list((other.home / "models").rglob("model.safetensors")), "nothing that an engine would load"


def test_a_file_that_was_cut_off_is_no_weights_and_only_its_rest_is_downloaded(hub, settings):
    record = download(settings)
    os.truncate(record.path / "model.safetensors", MIB)
    assert WeightStore(settings).find(*sets("hf:me/mine")) is None
    hub.behave()
    assert_right(download(settings))
    assert hub.sent == {"model.safetensors": len(WEIGHTS) - MIB}


def test_verifying_finds_what_has_the_right_size_and_the_wrong_bytes(hub, settings):
    record = download(settings)
    (record.path / "model.safetensors").write_bytes(bytes(len(WEIGHTS)))
    assert_right(download(settings, verify=True))


def test_two_at_once_download_once(hub, settings):
    async def both():
        store = WeightStore(settings)
        downloads = Downloads(store, settings)
        wanted = sets("hf:me/mine")
        records = await asyncio.gather(
            downloads.downloaded(wanted, unseen),
            downloads.downloaded(wanted, unseen),
            fetch(store, settings, wanted, unseen),
        )
        return {record.path for record in records}

    assert len(asyncio.run(both())) == 1
    assert hub.sent == {path: len(FILES[path]) for path in NEEDED}


def test_cancelled_by_the_last_who_waits_it_ends_and_later_goes_on(hub, settings):
    hub.behave(hold_after=2 * MIB)

    async def cancelled():
        downloads = Downloads(WeightStore(settings), settings)
        halfway = asyncio.Event()

        def show(progress):
            if progress.done >= 2 * MIB:
                halfway.set()

        first = asyncio.create_task(downloads.downloaded(sets("hf:me/mine"), show))
        second = asyncio.create_task(downloads.downloaded(sets("hf:me/mine"), unseen))
        while not halfway.is_set():
            part = next((settings.home / "models").rglob("*.incomplete"), None)
            if part is not None and part.stat().st_size >= 3 * MIB // 2:
                break
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert not second.done()
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await downloads.close()

    asyncio.run(cancelled())
    assert WeightStore(settings).records() == []
    hub.behave()
    assert_right(download(settings))
    assert hub.sent["model.safetensors"] <= len(WEIGHTS) - 3 * MIB // 2


def test_offline_says_at_once_what_is_missing_and_where_to_put_it(hub, settings):
    message = refusal(msgspec.structs.replace(settings, offline=True))
    assert "XINFER_OFFLINE is set" in message
    assert "missing are the files of https://huggingface.co/me/mine in" in message
    assert "models--me--mine" in message
    assert hub.requests == []


def test_no_route_says_the_same(hub, settings):
    nowhere = msgspec.structs.replace(settings, hf_endpoint="http://127.0.0.1:1")
    message = refusal(nowhere)
    assert "127.0.0.1 cannot be reached for me/mine" in message
    assert "missing are the files of" in message


def test_too_little_disk_is_said_before_anything_is_downloaded(hub, settings, monkeypatch):
    monkeypatch.setattr(fetching, "_free", lambda folder: MIB)
    assert "needs more than is free: 1.0 of 3.1 MiB are there" in refusal(settings)
    assert hub.sent == {}


def test_a_disk_that_fills_up_meanwhile(hub, settings, monkeypatch):
    from xinfer.worker.weights.transfer import _Part  # noqa: PLC0415

    def full(part, block):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_Part, "append", full)
    assert "is full. Free some" in refusal(settings)


def test_an_index_says_which_weights(hub, settings):
    index = json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}).encode()
    parts = {"m-1.safetensors": os.urandom(70_000), "m-2.safetensors": os.urandom(70_000)}
    extra = {"consolidated.safetensors": os.urandom(70_000), "config.json": b"{}"}
    hub.add("me/split", {"model.safetensors.index.json": index, **parts, **extra})
    record = download(settings, "hf:me/split")
    assert {file.path for file in record.files} == {"model.safetensors.index.json", "config.json", *parts}
    hub.add("me/broken", {"model.safetensors.index.json": b"{", **parts})
    with pytest.raises(InvalidRequest, match="is no index of weights"):
        download(settings, "hf:me/broken")


def test_a_gguf_is_a_file(hub, settings):
    hub.add("me/gguf", {"x-Q4_K_M.gguf": b"GGUF four", "x-Q8_0.gguf": b"GGUF eight", "README.md": b"# x"})
    record = download(settings, "hf:me/gguf#*Q4_K_M*.gguf", weights_format=Format.GGUF)
    assert record.path.name == "x-Q4_K_M.gguf"
    assert record.path.read_bytes() == b"GGUF four"
    assert [file.path for file in record.files] == ["x-Q4_K_M.gguf"]


def test_removing_frees_what_nobody_else_has(hub, settings):
    store = WeightStore(settings)
    record = download(settings)
    with store.lock(record.name) as lock:
        assert lock.try_shared()
        with pytest.raises(Conflict, match="it is being used"):
            store.remove(record.name)
    assert store.remove(record.name) == record.size
    assert store.records() == []
    assert not record.folder.exists()
    with pytest.raises(NotFound, match="xinfer models cached"):
        store.remove(record.name)


def test_two_sets_of_a_repository_share_their_files(hub, settings):
    hub.add("me/both", {"x-Q4.gguf": b"GGUF four", "x-Q8.gguf": b"GGUF eight"})
    one = download(settings, "hf:me/both#*Q4*", weights_format=Format.GGUF)
    same = download(settings, "hf:me/both#x-Q4.gguf", weights_format=Format.GGUF)
    store = WeightStore(settings)
    assert store.remove(one.name) == 0
    assert same.path.read_bytes() == b"GGUF four"
    assert store.remove(same.name) == len(b"GGUF four")


async def until_ended(keeper):
    async with asyncio.timeout(30):
        while any(pull.state == "downloading" for pull in (await keeper.here()).pulls):
            pass


def with_keeper(settings, scenario):
    async def run():
        keeper = WeightKeeper(settings)
        try:
            return await scenario(keeper)
        finally:
            await keeper.close()

    return asyncio.run(run())


def test_what_is_ordered_is_downloaded_once_and_shown_to_its_end(hub, settings):
    async def scenario(keeper):
        begun = keeper.pull(sets("hf:me/mine"), verify=False)
        assert keeper.pull(sets("hf:me/mine"), verify=False).name == begun.name
        await until_ended(keeper)
        (pull,) = keeper.pulls
        assert (pull.state, pull.done, pull.total) == ("ready", pull.total, sum(len(FILES[path]) for path in NEEDED))
        assert {file.name for file in pull.files} == set(NEEDED)
        (cached,) = (await keeper.here()).cached
        assert (cached.name, cached.source, cached.path) == (begun.name, "hf:me/mine", pull.path)
        (Path(pull.path) / "model.safetensors").write_bytes(bytes(len(WEIGHTS)))
        keeper.pull(sets("hf:me/mine"), verify=True)
        await until_ended(keeper)
        keeper.pull(sets("hf:me/nothing"), verify=False)
        await until_ended(keeper)
        assert "has no me/nothing" in keeper.pulls[-1].reason

    with_keeper(settings, scenario)
    assert hub.sent["model.safetensors"] == 2 * len(WEIGHTS)


def test_what_is_not_finished_is_seen_and_can_be_removed(hub, settings):
    hub.behave(hold_after=2 * MIB)

    async def scenario(keeper):
        begun = keeper.pull(sets("ms:me/mine"), verify=False)
        while not (found := await keeper.here()).pulls[0].done:
            pass
        (unfinished,) = found.cached
        assert (unfinished.name, unfinished.format, unfinished.complete) == ("ms:me/mine", None, False)
        with pytest.raises(Conflict, match="is being downloaded"):
            await keeper.remove("ms:me/mine")
        assert (await keeper.cancel(begun.name)).state == "cancelled"
        with pytest.raises(NotFound, match="is not being pulled"):
            await keeper.cancel(begun.name)
        assert await keeper.remove("ms:me/mine") > 0
        assert (await keeper.here()).cached == ()

    with_keeper(settings, scenario)


def test_a_worker_looks_at_what_it_has_and_at_nothing_else(hub, settings, tmp_path):
    demo = DEMO_FOLDER / "demo-chat"
    hub.add("me/chat", {path.name: path.read_bytes() for path in demo.iterdir() if path.suffix != ".gguf"})
    sources = tuple(one.source for one in sets("hf:me/chat", "ms:me/chat"))

    async def scenario(keeper):
        assert await keeper.look(sources, ()) is None
        keeper.pull(sets("ms:me/chat"), verify=False)
        await until_ended(keeper)
        found = await keeper.look(sources, ())
        assert (found.name, found.source, found.kind) == ("chat", "ms:me/chat", Kind.LLM)
        path = keeper.pulls[0].path
        assert (await keeper.look_at_path(path, "x", ())).name == "x"
        assert await keeper.look_at_path("/etc", "x", ()) is None
        assert await keeper.look_at_path(str(tmp_path / "nothing"), "x", ()) is None

    with_keeper(msgspec.structs.replace(settings, model_roots=str(tmp_path)), scenario)


def test_a_listing_that_is_none(hub, settings):
    pages = msgspec.structs.replace(settings, hf_endpoint=f"{hub.url}/seen?")
    assert "does not list me/mine as expected" in refusal(pages)


def test_errors_reach_everybody_who_waits(hub, settings):
    async def waiting():
        downloads = Downloads(WeightStore(settings), settings)
        waits = [downloads.downloaded(sets("hf:me/nothing"), unseen) for _ in range(2)]
        return await asyncio.gather(*waits, return_exceptions=True)

    assert all(isinstance(error, DownloadFailed) for error in asyncio.run(waiting()))
