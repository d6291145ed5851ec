"""How packages are asked for: requirement specifiers, as pip and uv read them. Pure."""

import re

from xinfer.errors import InvalidRequest

_VERSION = r"(?:===[^\s;,()]+|(?:~=|==|!=|<=|>=|<|>)\s*v?[0-9][A-Za-z0-9.*+!_-]*)"
_WORD = r"(?:'[^']*'|\"[^\"]*\"|[a-z_.]+)"
_CLAUSE = rf"[\s(]*{_WORD}\s*(?:===|~=|==|!=|<=|>=|<|>|\bnot\s+in\b|\bin\b)\s*{_WORD}[\s)]*"
REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"(?P<what>\s*(?:\[[A-Za-z0-9._,\s-]*\])?"
    rf"\s*(?:{_VERSION}(?:\s*,\s*{_VERSION})*|\({_VERSION}(?:\s*,\s*{_VERSION})*\))?)"
    r"(?P<where>\s*@\s*\S+)?"
    rf"(?P<when>\s*;{_CLAUSE}(?:\b(?:and|or)\b{_CLAUSE})*)?"
)
FILES = (".txt", ".in", ".toml")
"""Names of an installer's files, which could be names of packages."""


def distribution(requirement: str) -> str:
    """The normalized name of the package that a requirement is about.

    Raises:
        InvalidRequest: it is no requirement. Options and files of an installer are none.
    """
    return normalized(_parsed(requirement)["name"])


def spelled(requirement: str) -> str:
    """A requirement in the one spelling that all of the same meaning share: normalized name, no optional spaces.

    Raises:
        InvalidRequest: it is no requirement.
    """
    found = _parsed(requirement)
    what = re.sub(r"\s+", "", found["what"])
    where = re.sub(r"^\s*@\s*", " @ ", found["where"] or "")
    return normalized(found["name"]) + what + where + (found["when"] or "")


def _parsed(requirement: str) -> re.Match[str]:
    found = REQUIREMENT.fullmatch(" ".join(requirement.split()))  # many spaces would take the expression long
    if found is None or any(ord(letter) < ord(" ") for letter in requirement) or found["name"].endswith(FILES):
        raise InvalidRequest(
            f"{requirement!r} is no package; write a name, or one with a version such as 'transformers==5.19.0'",
            param="virtual_env_packages",
        )
    return found


def normalized(name: str) -> str:
    """Package names as indexes compare them: case, dots and underscores do not count."""
    return re.sub(r"[-_.]+", "-", name).lower()
