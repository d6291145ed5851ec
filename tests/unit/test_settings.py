import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from xinfer.settings import Settings, authenticate_actors, child_environment, cluster_token

FIELDS = {field.name: field for field in msgspec.structs.fields(Settings)}
SAMPLES = {
    "home": ("/somewhere/home", Path("/somewhere/home")),
    "token_file": ("/somewhere/token", Path("/somewhere/token")),
    "log_level": ("DEBUG", "DEBUG"),
    "over_limit": ("end", "end"),
    "cgroups": ("off", "off"),
    "cpu_affinity": ("off", "off"),
    "model_src": ("modelscope", "modelscope"),
    "offline": ("true", True),
    "trust_remote_code": ("1", True),
}


def sample(name: str) -> tuple[str, object]:
    """A value as it stands in the environment and as it is read; not the default."""
    if name in SAMPLES:
        return SAMPLES[name]
    kind = type(FIELDS[name].default)
    raw = {float: "1.25", int: "7", str: "some text"}[kind]
    return raw, kind(raw)


def variable(name: str) -> str:
    return f"XINFER_{name.upper()}"


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    for name in list(os.environ):
        if name.startswith("XINFER_"):
            monkeypatch.delenv(name)
    return Settings(home=tmp_path, token_file=tmp_path / "keys" / "token")


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_is_read_from_its_variable(name):
    raw, value = sample(name)
    assert getattr(Settings.from_env({variable(name): raw}), name) == value


@pytest.mark.parametrize("name", FIELDS)
def test_a_variable_that_is_empty_counts_as_not_set(name):
    assert Settings.from_env({variable(name): ""}) == Settings.from_env({})


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("replica_lease_s", "soon"),
        ("replica_lease_s", "0"),
        ("gateway_lease_s", "-1"),
        ("heartbeat_s", "nan"),
        ("worker_timeout_s", "inf"),
        ("settle_s", "-0.1"),
        ("drain_timeout_s", "30s"),
        ("recover_wait_s", "1,5"),
        ("max_body_bytes", "32M"),
        ("max_body_bytes", "0"),
        ("max_queued", "1.5"),
        ("log_level", "LOUD"),
        ("over_limit", "kill"),
        ("cgroups", "v1"),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_variable(name, raw):
    with pytest.raises(ValueError, match=f"{variable(name)}='{raw}'"):
        Settings.from_env({variable(name): raw})


def test_paths_are_absolute_and_know_the_home_of_the_user(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Settings.from_env({"XINFER_HOME": "here"}).home == tmp_path / "here"
    assert Settings.from_env({"XINFER_TOKEN_FILE": "~/token"}).token_file == Path.home() / "token"


def test_children_read_the_same_settings():
    settings = Settings.from_env({variable(name): sample(name)[0] for name in FIELDS})
    assert Settings.from_env(settings.environment()) == settings
    assert Settings.from_env(Settings.from_env({}).environment()) == Settings.from_env({})


def test_the_store_is_below_the_home_unless_a_database_is_named(settings):
    assert settings.store_url == f"sqlite+aiosqlite:///{settings.home}/supervisor/store.sqlite"
    elsewhere = msgspec.structs.replace(settings, database_url="postgresql+asyncpg://db/x")
    assert elsewhere.store_url == "postgresql+asyncpg://db/x"


# --- the cluster token ------------------------------------------------------------------------------------------------


def test_the_token_is_made_once_and_only_its_user_can_read_it(settings):
    token = cluster_token(settings)
    assert len(token) == 64
    assert cluster_token(settings) == token
    assert stat.S_IMODE(settings.token_file.stat().st_mode) == 0o600
    assert [path.name for path in settings.token_file.parent.iterdir()] == ["token"]


def test_the_environment_goes_before_the_file(settings, monkeypatch):
    monkeypatch.setenv("XINFER_CLUSTER_TOKEN", "given")
    assert cluster_token(settings) == "given"
    assert not settings.token_file.exists()


def test_a_token_file_that_somebody_wrote_is_used(settings):
    settings.token_file.parent.mkdir()
    settings.token_file.write_text("  by hand\n")
    assert cluster_token(settings) == "by hand"


def test_an_empty_token_would_let_everybody_in_and_is_refused(settings):
    settings.token_file.parent.mkdir()
    settings.token_file.write_text("\n")
    with pytest.raises(OSError, match="is empty"):
        cluster_token(settings)


RACE = """
import sys
from xinfer.settings import Settings, cluster_token
settings = Settings.from_env()
print("ready", flush=True)
sys.stdin.readline()
print(cluster_token(settings), flush=True)
"""


def test_processes_that_start_together_agree_on_one_token(settings):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE],
            env=child_environment(settings.environment()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    tokens = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 6
    assert tokens == {settings.token_file.read_text().strip()}
    assert [path.name for path in settings.token_file.parent.iterdir()] == ["token"]


def test_actors_sign_with_the_token_and_children_make_the_key_themselves(settings, monkeypatch):
    monkeypatch.setenv("XOSCAR_AUTH_KEY", "old")
    monkeypatch.setenv("KEPT", "yes")
    authenticate_actors(settings)
    assert os.environ["XOSCAR_AUTH_KEY"] == cluster_token(settings)
    env = child_environment({"EXTRA": "1"})
    assert "XOSCAR_AUTH_KEY" not in env
    assert (env["KEPT"], env["EXTRA"]) == ("yes", "1")
