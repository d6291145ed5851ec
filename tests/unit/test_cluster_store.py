"""The store survives what a process does not: restarts, and files that are not what they should be."""

import asyncio
import sqlite3
import threading

import msgspec
import pytest

from xinfer.errors import StoreFailed
from xinfer.ops import Kind
from xinfer.protocol import Cordon
from xinfer.spec import Deployment, Format, ModelSpec, ResourceRequest
from xinfer.supervisor.peaks import Peak, PeakKey
from xinfer.supervisor.store import Store
from xinfer.supervisor.store.schema import SCHEMA_VERSION
from xinfer.supervisor.store.urls import async_url


def deployment(uid="m", revision=1, replicas=1):
    spec = ModelSpec(name="x", kind=Kind.LLM, source="/x", format=Format.GGUF, matryoshka_dims=(1, 2))
    return Deployment(
        model_uid=uid,
        spec=spec,
        engine="e",
        replicas=replicas,
        request=ResourceRequest(device_indices=(0, 1)),
        options={"a": [1, {"b": None}]},
        envs={"K": "V"},
        revision=revision,
        created_at=1.5,
    )


@pytest.fixture(autouse=True)
def no_thread_left():
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(10)  # it was told to end, and is on its way
        assert not thread.is_alive()


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'deep' / 'store.sqlite'}"


def with_store(url, work=None):
    """Open, work, close; what was remembered at the opening."""

    async def run():
        store = Store(url)
        try:
            remembered = await store.open()
            if work:
                await work(store)
            return remembered
        finally:
            await store.close()

    return asyncio.run(run())


def test_everything_comes_back_and_each_start_is_counted(url):
    async def write(store):
        await store.put(deployment("a"), 1.0)
        await store.put(deployment("b", revision=2), 2.0)
        await store.put(deployment("a", revision=1, replicas=3), 3.0)
        await store.remember_worker("w1", "one", "h:1", 1.0)
        await store.remember_worker("w1", "one", "h:2", 2.0)
        await store.remember_worker("w2", "two", "h:3", 2.0)
        await store.forget_worker("w2")

    first = with_store(url, write)
    assert (first.deployments, first.worker_ids, first.last_revision) == ((), (), 0)
    second = with_store(url)
    assert second.epoch == first.epoch + 1
    assert second.deployments == (deployment("a", replicas=3), deployment("b", revision=2))
    assert second.worker_ids == ("w1",)


def test_cordons_come_back_in_their_last_form(url):
    whole = Cordon(worker_id="w1", drain=True, since=1.5)
    card = Cordon(worker_id="w1", device_id="GPU-a", since=2.5)

    async def write(store):
        await store.put_cordon(card)
        await store.put_cordon(msgspec.structs.replace(whole, drain=False))
        await store.put_cordon(whole)
        await store.put_cordon(Cordon(worker_id="w2"))
        await store.remove_cordon("w2", "")
        await store.remove_cordon("w1", "GPU-b")

    with_store(url, write)
    assert with_store(url).cordons == (whole, card)


def test_a_store_of_before_cordons_is_taken_over(url, tmp_path):
    with_store(url, lambda store: store.put(deployment("a"), 1.0))
    connection = sqlite3.connect(tmp_path / "deep" / "store.sqlite")
    with connection:
        connection.execute("DROP TABLE xinfer_cordons")
    connection.close()
    found = with_store(url)
    assert (found.deployments, found.cordons) == ((deployment("a"),), ())


def test_a_new_store_outranks_one_that_was_lost(tmp_path):
    lost = with_store(f"sqlite:///{tmp_path / 'lost.sqlite'}")
    assert with_store(f"sqlite:///{tmp_path / 'new.sqlite'}").epoch >= lost.epoch


def test_revisions_of_removed_models_are_not_used_again(url):
    async def write(store):
        await store.put(deployment(revision=7), 1.0)
        await store.remove("m")

    with_store(url, write)
    remembered = with_store(url)
    assert (remembered.deployments, remembered.last_revision) == ((), 7)


def peak(mib, model="/x", context_length=4096):
    key = PeakKey(
        model=model,
        format="gguf",
        quantization="Q4_K_M",
        engine="e",
        context_length=context_length,
        concurrency=1,
        devices=1,
        device_kind="cpu",
        options='{"a":1}',
    )
    return Peak(key=key, mib=mib)


def test_observed_peaks_come_back_the_latest_of_each_kind(url):
    async def write(store):
        for mib in (100, 200):
            await store.put_peak(peak(mib), 1.0)
        await store.put_peak(peak(300, model="/" + "y" * 5000), 2.0)
        await store.put_peak(peak(400, context_length=64), 2.0)

    assert with_store(url, write).peaks == ()
    assert sorted(found.mib for found in with_store(url).peaks) == [200, 300, 400]
    assert peak(200) in with_store(url).peaks


def test_a_peak_that_cannot_be_read_is_no_reason_not_to_start(url, tmp_path, caplog):
    with_store(url, lambda store: store.put_peak(peak(100), 1.0))
    connection = sqlite3.connect(tmp_path / "deep" / "store.sqlite")
    with connection:
        connection.execute("UPDATE xinfer_peaks SET document = '{}'")
    connection.close()
    assert with_store(url).peaks == ()
    assert "cannot be read and is not used" in caplog.text


def test_sqlite_writes_ahead(url, tmp_path):
    with_store(url)
    connection = sqlite3.connect(tmp_path / "deep" / "store.sqlite")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_file_that_is_no_database_is_refused_clearly(tmp_path):
    path = tmp_path / "store.sqlite"
    path.write_text("hello " * 1000)
    with pytest.raises(StoreFailed, match=r"store\.sqlite cannot be opened: file is not a database"):
        with_store(f"sqlite:///{path}")


def test_a_place_that_cannot_be_written_is_refused_clearly(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "store.sqlite", tmp_path):
        with pytest.raises(StoreFailed, match=r"the store .* cannot be written"):
            with_store(f"sqlite:///{path}")


def test_only_its_user_reads_it(url, tmp_path):
    with_store(url)
    assert (tmp_path / "deep" / "store.sqlite").stat().st_mode & 0o077 == 0


def test_an_unreadable_document_names_its_model(url, tmp_path):
    with_store(url, lambda store: store.put(deployment("broken"), 1.0))
    connection = sqlite3.connect(tmp_path / "deep" / "store.sqlite")
    with connection:
        connection.execute("UPDATE xinfer_deployments SET document = '{}'")
    connection.close()
    with pytest.raises(StoreFailed, match=r"'broken' cannot be read .*delete its row"):
        with_store(url)


def test_a_store_of_a_newer_xinfer_is_left_alone(url, tmp_path):
    with_store(url)
    connection = sqlite3.connect(tmp_path / "deep" / "store.sqlite")
    with connection:
        connection.execute("UPDATE xinfer_meta SET value = ? WHERE key = 'schema'", [SCHEMA_VERSION + 1])
    connection.close()
    with pytest.raises(StoreFailed, match="newer xinfer"):
        with_store(url)


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        ("sqlite:////x", "sqlite+aiosqlite"),
        ("postgresql://u:p@h/d", "postgresql+asyncpg"),
        ("postgres://u:p@h/d", "postgresql+asyncpg"),
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg"),
        ("mysql://u:p@h/d", "mysql+aiomysql"),
    ],
)
def test_urls_get_an_async_driver(text, driver):
    assert async_url(text).drivername == driver


def test_bad_urls_are_refused_without_repeating_them():
    with pytest.raises(StoreFailed) as refused:
        async_url("secret password")
    assert "secret" not in str(refused.value)
    with pytest.raises(StoreFailed, match="pip install"):
        Store("mysql://u:p@h/d")
    with pytest.raises(StoreFailed, match="XINFER_DATABASE_URL"):
        Store("nosuchdb://h/d")
