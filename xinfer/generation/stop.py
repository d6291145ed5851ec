"""Stop strings in a stream of text, also across the borders of its pieces."""

from collections.abc import Iterable

from xinfer.generation.tags import partial_tag


class StopStrings:
    """Lets text through up to the first stop string that is complete, and never shows a part of one.

    The answer does not depend on how the text is cut into pieces: of several stop strings the one that is complete
    first wins, and of those that end together the longest.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """The text that is certain to be shown now, and whether a stop string came (then nothing follows)."""
        if not self._stops:
            return text, False
        text = self._held + text
        self._held = ""
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            return text[: min(found)[1]], True
        certain = len(text) - partial_tag(text, *self._stops)
        self._held = text[certain:]
        return text[:certain], False

    def flush(self) -> str:
        """At the end of the answer: what was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held
