"""What a sequence may write next: token masks from a grammar, with the library llguidance.

``Constraint`` is all that runners know; the rest is how one is made. A grammar is compiled off the event loop, once for
all requests that ask for it, and every sequence then has a state of its own.
"""

import importlib.util
import itertools
import json
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from xinfer.engines.token_engine.tokenizer import Tokenizer
from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.generation.grammar import INNER, Grammar

if TYPE_CHECKING:  # an installation may lack it
    import llguidance

log = logging.getLogger(__name__)

GRAMMAR_PACKAGES = ("llguidance>=1.9,<2",)
"""What an environment made for a token engine needs for this, as pip reads it."""

CACHED = 64
"""Grammars that are kept compiled."""

MAX_SYMBOLS = 100_000
"""Of one grammar: compiling such a one takes about a second."""

MAX_LEXER_STATES = 20_000
"""Of one grammar; 1 to 2 KiB each. Those in use have hundreds."""

LONGEST_REASON = 400
"""Characters of the library's explanation that are shown."""

_LISTING = re.compile(r"\s*\d+ \||<non-verbose/>")
_POSITION = re.compile(r"^at \d+\(\d+\): ")
_ADVICE = re.compile(r"Enable 'coerce_one_of' option to approximate oneOf with anyOf")
"""The library's, to those who build upon it; clients cannot follow it."""


class Constraint(Protocol):
    """What one sequence may write. Belongs to the engine's thread."""

    def mask(self) -> bytes | None:
        """Which tokens may come next: one bit for each id, the lowest bit of a byte first; ``None``: all.

        Ids behind the last bit may not come.
        """

    def accept(self, token: int) -> bool:
        """Take note of a token that was chosen; returns whether nothing may follow it.

        Raises:
            InvalidRequest: the grammar asks for more work than it may.
        """


class Constraints(Protocol):
    """A compiled grammar."""

    def start(self) -> Constraint:
        """For one sequence."""


class GrammarCompiler:
    """Compiles grammars for one model. May be used by several threads.

    Args:
        tokenizer: the model's.
        stop_ids: tokens that end an answer: they are allowed where a grammar may end.
    """

    def __init__(self, tokenizer: Tokenizer, stop_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = sorted(stop_ids)
        self._lacking = "which is not ready yet"
        """Why there are no grammars here."""
        self._lock = threading.Lock()
        self._compiled: OrderedDict[Grammar, Constraints] = OrderedDict()
        self._vocabulary: llguidance.LLTokenizer | None = None

    def prepare(self) -> None:
        """Build what all grammars share, which for a large vocabulary takes most of a second.

        It holds the interpreter all the time, so it is done before anybody is served.
        """
        if importlib.util.find_spec("llguidance") is None:
            self._lacking = "and the package that makes them is not installed here: pip install llguidance"
            return
        import llguidance  # noqa: PLC0415 - the only package here that an installation may lack

        vocabulary: Any = _Vocabulary(self._tokenizer, self._stop_ids)
        try:
            self._vocabulary = llguidance.LLTokenizer(vocabulary, eos_token=vocabulary.stops)
        except ValueError as error:  # a model that cannot be held to grammars is of use all the same
            log.warning("no grammars for this model: %s", error)
            self._lacking = f"which this model's vocabulary does not allow: {error}"

    def cached(self, grammar: Grammar) -> Constraints | None:
        """What was compiled already."""
        return self._compiled.get(grammar)

    def compile(self, grammar: Grammar) -> Constraints:
        """Compile a grammar, after ``prepare``; may take a second if it is a large one.

        Raises:
            InvalidRequest: it is wrong, or asks for too much; says what is wrong.
            UnsupportedParameter: the library is not installed, or cannot work with this model.
        """
        if self._vocabulary is None:
            raise UnsupportedParameter(f"{grammar.param!r} needs grammars, {self._lacking}", param=grammar.param)
        with self._lock:
            found = self._compiled.get(grammar)
            if found is None:
                found = self._compile(grammar)
                if len(self._compiled) >= CACHED:
                    self._compiled.popitem(last=False)
            else:
                self._compiled.move_to_end(grammar)
            self._compiled[grammar] = found
            return found

    def _compile(self, grammar: Grammar) -> Constraints:
        import llguidance  # noqa: PLC0415 - see prepare

        assert self._vocabulary is not None
        limits = llguidance.LLParserLimits(
            max_grammar_size=MAX_SYMBOLS, max_lexer_states=MAX_LEXER_STATES, verbose_errors=False
        )
        matcher = llguidance.LLMatcher(self._vocabulary, _serialized(grammar), log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # finds out whether any text fits, and makes the first mask of sequences cheap
        if matcher.is_error():
            raise _refusal(grammar.param, matcher.get_error(), is_own=not grammar.inner)
        return _Compiled(matcher, grammar.param)


def _serialized(grammar: Grammar) -> str:
    from llguidance import gbnf_to_lark  # noqa: PLC0415 - see prepare

    grammars = [{"lark_grammar": grammar.lark}]
    if grammar.inner:
        try:
            inner = gbnf_to_lark.any_to_lark(grammar.inner)
        except Exception as error:  # noqa: BLE001 - the converter raises plain ones; they become a refusal
            raise _refusal(grammar.param, str(error)) from None
        grammars.append({"name": INNER, "lark_grammar": inner})
    return json.dumps({"grammars": grammars})


def _refusal(param: str, reason: str, *, is_own: bool = True) -> InvalidRequest:
    shown = "no text fits it" if "NoExtension" in reason else _shown(reason)
    if is_own:
        shown = _POSITION.sub("", shown)
    return InvalidRequest(f"{param!r} cannot be compiled into a grammar: {shown}", param=param)


def _shown(reason: str) -> str:
    """The library's reason without its listing of the grammar, which for the most part nobody but us has written."""
    lines = itertools.takewhile(lambda line: not _LISTING.match(line), reason.splitlines())
    shown = "; ".join(filter(None, map(str.strip, lines)))
    return _ADVICE.sub("Its alternatives may be true at once; use anyOf", shown)[:LONGEST_REASON]


class _Compiled:
    """Implements ``Constraints``."""

    def __init__(self, matcher: "llguidance.LLMatcher", param: str) -> None:
        self._matcher = matcher
        self._param = param

    def start(self) -> Constraint:
        """For one sequence."""
        return _Matched(self._matcher.deep_copy(), self._param)


class _Matched:
    """Implements ``Constraint``."""

    def __init__(self, matcher: "llguidance.LLMatcher", param: str) -> None:
        self._matcher = matcher
        self._param = param

    def mask(self) -> bytes | None:
        """See the protocol. A matcher that has failed gives none, and says why when it is told of the next token."""
        found = self._matcher.compute_bitmask()
        return None if self._matcher.is_error() else found

    def accept(self, token: int) -> bool:
        """See the protocol."""
        if not self._matcher.consume_token(token):
            reason = _shown(self._matcher.get_error())
            raise InvalidRequest(f"the answer could not be held to {self._param!r}: {reason}", param=self._param)
        return bool(self._matcher.is_stopped())


class _Vocabulary:
    """A tokenizer as llguidance wants to see it: every token as the text that it adds to an answer.

    Marks that stay visible are plain text here, so a grammar names them as text and a model may write them as the
    token they are. Tokens that are never shown have no text, and no grammar lets them through.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._pieces = list(tokenizer.pieces())
        # A model without such tokens gets one that it cannot choose: a grammar needs one.
        stops = [stop for stop in stop_ids if stop < len(self._pieces)] or [len(self._pieces)]
        self.tokens = [*self._pieces, b""]
        for stop in stops:
            self.tokens[stop] = b"<stop-%d>" % stop
        self.eos_token_id = stops[0]
        self.special_token_ids = stops
        self.stops = stops
        self._ids: dict[bytes, int] = {}
        for index, piece in enumerate(self._pieces):
            if piece and index not in self.special_token_ids:
                self._ids.setdefault(piece, index)
        self._longest = max(map(len, self._ids), default=1)

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokens that the model would write for a text that is forced."""
        data = text.encode() if isinstance(text, str) else text
        ids = self._tokenizer.encode(data.decode("utf-8", "replace"), add_special=False)
        shown = [token for token in ids if self._pieces[token]]  # some put a token before every text
        if b"".join([self._pieces[token] for token in shown]) == data:
            return shown
        return self._greedy(data)

    def _greedy(self, data: bytes) -> list[int]:
        """Where the tokenizer adds something of its own (a space before the first word): the longest tokens first."""
        ids = []
        place = 0
        while place < len(data):
            sizes = range(min(self._longest, len(data) - place), 0, -1)
            found = next((size for size in sizes if data[place : place + size] in self._ids), None)
            if found is None:
                break  # the rest cannot be written with these tokens; the mask will say so
            ids.append(self._ids[data[place : place + found]])
            place += found
        return ids
