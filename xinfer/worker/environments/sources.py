"""Where packages come from: uv's own settings, else those of pip, which uv does not read by itself.

A machine behind a mirror has a pip configuration and nothing for uv. Reading it keeps one place to configure.
"""

import configparser
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from xinfer.settings import child_environment

UV_SOURCES = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_CONFIG_FILE")
"""Any of these set: uv is configured, and pip's settings do not count."""
PIP_SETTINGS = ("index-url", "extra-index-url", "find-links", "no-index", "cert", "trusted-host", "proxy")
SECTIONS = ("global", "install")
"""Of a pip configuration; later ones win."""
TRUE_WORDS = frozenset({"1", "true", "yes", "on"})


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where uv looks: variables for its process, and options for every command that looks for packages."""

    variables: dict[str, str] = {}
    options: tuple[str, ...] = ()


def sources(folders: Iterable[Path] = (), *, index: bool = True) -> Sources:
    """What this process was started with says where packages are.

    Args:
        folders: folders with wheels to look into as well.
        index: without it, there is nothing but those folders: for machines without a network.
    """
    env = child_environment()
    links = tuple(word for folder in folders for word in ("--find-links", str(folder)))
    if not index:
        return Sources(options=("--no-index", "--offline", *links))
    given = translated(pip_settings(env, _configuration_files(env)), env)
    return msgspec.structs.replace(given, options=(*given.options, *links))


def translated(pip: Mapping[str, str], env: Mapping[str, str]) -> Sources:
    """The settings of pip as uv takes them, where the environment has none for uv."""
    variables: dict[str, str] = {}
    options: tuple[str, ...] = ()
    if not any(env.get(name) for name in UV_SOURCES):
        if index := pip.get("index-url"):
            variables["UV_DEFAULT_INDEX"] = index
        if more := pip.get("extra-index-url", "").split():
            variables["UV_INDEX"] = " ".join(more)
            # pip takes the best version that any index has; uv would only look into the first that has the name.
            variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"
        if links := pip.get("find-links", "").split():
            variables["UV_FIND_LINKS"] = ",".join(links)
        if hosts := pip.get("trusted-host", "").split():
            variables["UV_INSECURE_HOST"] = " ".join(hosts)
        if pip.get("no-index", "").lower() in TRUE_WORDS:
            options = ("--no-index",)
    if pip.get("cert") and not env.get("SSL_CERT_FILE"):
        variables["SSL_CERT_FILE"] = pip["cert"]
    if pip.get("proxy"):
        variables |= {name: pip["proxy"] for name in ("HTTPS_PROXY", "HTTP_PROXY") if not _set(env, name)}
    return Sources(variables=variables, options=options)


def pip_settings(env: Mapping[str, str], files: Iterable[Path]) -> dict[str, str]:
    """The settings of pip that say where packages are: of its files, later ones first, and of ``PIP_*`` above all."""
    found: dict[str, str] = {}
    for path in files:
        # A file that cannot be read or understood is pip's to complain about; here it says nothing.
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
        for section in SECTIONS:
            if parser.has_section(section):
                # pip takes both spellings of a name.
                given = {key.replace("_", "-"): value for key, value in parser.items(section)}
                found |= {key: value for key, value in given.items() if key in PIP_SETTINGS}
    for key in PIP_SETTINGS:
        if value := env.get(f"PIP_{key.upper().replace('-', '_')}"):
            found[key] = value
    return found


def _configuration_files(env: Mapping[str, str]) -> Iterator[Path]:
    """The files that pip reads, in its order."""
    chosen = env.get("PIP_CONFIG_FILE")
    if chosen == "/dev/null":  # pip's way to say: none of them
        return
    home = Path.home()
    if sys.platform == "darwin":
        yield Path("/Library/Application Support/pip/pip.conf")
        yield home / "Library" / "Application Support" / "pip" / "pip.conf"
    else:
        for folder in reversed((env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")):
            yield Path(folder) / "pip" / "pip.conf"
        yield Path("/etc/pip.conf")
    yield home / ".pip" / "pip.conf"
    yield Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if chosen:
        yield Path(chosen)


def _set(env: Mapping[str, str], name: str) -> bool:
    return bool(env.get(name) or env.get(name.lower()))
