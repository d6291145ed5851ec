"""Where packages come from: pip's configuration, as uv takes it, unless uv has its own."""

from pathlib import Path

from xinfer.worker.environments.sources import pip_settings, sources, translated


def test_pips_settings_become_those_of_uv() -> None:
    pip = {
        "index-url": "https://mirror.example/simple",
        "extra-index-url": "https://a.example/simple\n  https://b.example/simple",
        "find-links": "/wheels https://c.example/wheels",
        "trusted-host": "mirror.example",
        "cert": "/etc/ca.pem",
        "proxy": "http://proxy.example:3128",
        "no-index": "true",
    }
    assert translated(pip, {}).options == ("--no-index",)
    assert translated(pip, {}).variables == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,https://c.example/wheels",
        "UV_INSECURE_HOST": "mirror.example",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "HTTP_PROXY": "http://proxy.example:3128",
    }


def test_uvs_own_settings_are_left_alone() -> None:
    env = {"UV_INDEX": "https://own.example/simple", "SSL_CERT_FILE": "/own.pem", "https_proxy": "p", "HTTP_PROXY": "p"}
    pip = {"index-url": "https://mirror.example/simple", "cert": "/etc/ca.pem", "proxy": "q", "no-index": "1"}
    assert translated(pip, env).variables == {}
    assert translated(pip, env).options == ()


def test_files_of_pip_are_read_in_its_order_and_variables_win(tmp_path: Path) -> None:
    first, second, broken = (tmp_path / name for name in ("first", "second", "broken"))
    first.write_text("[global]\nindex-url = https://one.example\ncert = /one.pem\ntimeout = 9\n")
    second.write_text("[install]\nindex_url = https://three.example\n[global]\nindex-url = https://two.example\n")
    broken.write_text("no section = here\n")
    files = [first, second, broken, tmp_path / "missing"]
    assert pip_settings({}, files) == {"index-url": "https://three.example", "cert": "/one.pem"}
    env = {"PIP_INDEX_URL": "https://four.example", "PIP_FIND_LINKS": "/wheels"}
    assert pip_settings(env, files)["index-url"] == "https://four.example"
    assert pip_settings(env, files)["find-links"] == "/wheels"


def test_offline_there_is_nothing_but_the_folders(tmp_path: Path) -> None:
    found = sources([tmp_path], index=False)
    assert found.variables == {}
    assert found.options == ("--no-index", "--offline", "--find-links", str(tmp_path))
