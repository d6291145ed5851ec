"""The folders that models may be read from, so that who may launch a model cannot have any other file opened.

A path counts with its symbolic links followed. A refusal says the same whether there is something at the path or not.
"""

from collections.abc import Iterable
from pathlib import Path

from xinfer.catalog.sources import is_symbolic
from xinfer.errors import InvalidRequest, PathNotAllowed
from xinfer.settings import Settings


class Roots:
    """Folders under which models, GGUF files and adapters may lie."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(dict.fromkeys(folder.expanduser().resolve() for folder in folders))

    @classmethod
    def of(cls, settings: Settings) -> "Roots":
        """Those of ``XINFER_MODEL_ROOTS``."""
        return cls(settings.root_folders)

    def allow(self, source: str) -> bool:
        """Whether it may be read: a source that is no path always, a path where it leads under a root."""
        if is_symbolic(source):
            return True
        resolved = _resolved(source)
        return resolved is not None and any(resolved.is_relative_to(folder) for folder in self._folders)

    def find(self, name: str) -> str:
        """What lies under a root by this relative name, in the first of them that has it; empty: nothing."""
        paths = (str(folder / name) for folder in self._folders)
        return next((path for path in paths if self.allow(path) and Path(path).exists()), "")

    def require(self, source: str, param: str = "model_path") -> None:
        """Whether a source may be read. ``param`` names the field that it stands in.

        Raises:
            PathNotAllowed: it may not; says how to allow it.
        """
        if not self.allow(source):
            folders = ", ".join(map(str, self._folders)) or "none"
            raise PathNotAllowed(
                f"{source!r} is not under a folder that models may be read from ({folders}); whoever runs the server "
                "can allow more of them: XINFER_MODEL_ROOTS=FOLDER:FOLDER for the supervisor and the workers",
                param=param,
            )


def absolute(source: str, param: str = "model_path") -> str:
    """A path that means the same in the directory of a replica; sources that are no path stay as they are.

    Raises:
        InvalidRequest: it is no path at all.
    """
    if is_symbolic(source):
        return source
    try:
        return str(Path(source).expanduser().absolute())
    except RuntimeError:
        raise InvalidRequest(
            f"{source!r} begins with ~ and a name, and nobody here is called so", param=param
        ) from None


def _resolved(source: str) -> Path | None:
    """Where a path leads; None: nowhere (links in a circle, characters that no path has)."""
    try:
        return Path(source).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):
        return None
