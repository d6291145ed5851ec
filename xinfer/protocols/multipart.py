"""Forms with files (multipart/form-data, RFC 7578), read while they arrive. Pure.

Of a file nothing is kept but its place in the body, so that a recording is in memory once, as a part of the body that
it came in. Fields are small and are kept.
"""

import enum
import re
from email.message import Message

import msgspec

from xinfer.errors import InvalidRequest

FORM = "multipart/form-data"
MAX_PARTS = 64
MAX_HEADERS = 8 * 1024
"""Bytes of the headers of one part."""
READ_AT_ONCE = 64 * 1024
MAX_FIELD = 256 * 1024
"""Bytes of one field that is no file."""

_BOUNDARY = re.compile(r"[0-9a-zA-Z'()+_,./:=? -]{0,69}[0-9a-zA-Z'()+_,./:=?-]")
NEEDS_FORM = (
    "the body must be a form with a file, sent with the header 'content-type: multipart/form-data; boundary=...'"
)


class Place(msgspec.Struct, frozen=True):
    """Bytes of the body from ``start`` up to ``stop``."""

    start: int
    stop: int

    def of(self, body: bytes) -> memoryview:
        """These bytes, without a copy."""
        return memoryview(body)[self.start : self.stop]


class Field(msgspec.Struct, frozen=True):
    """A field that is no file."""

    value: str
    place: Place


class File(msgspec.Struct, frozen=True):
    """A file."""

    filename: str
    content_type: str
    place: Place


class _Stage(enum.Enum):
    PREAMBLE = enum.auto()
    BOUNDARY = enum.auto()
    """Behind a boundary, where a line or the end of the form comes."""
    HEADERS = enum.auto()
    CONTENT = enum.auto()
    OVER = enum.auto()


class FormReader:
    """Finds the parts of a form in its body, which may come in any pieces.

    Args:
        content_type: the request's header of this name.

    Raises:
        InvalidRequest: the header is not that of a form.
    """

    def __init__(self, content_type: str) -> None:
        self.fields: dict[str, list[Field]] = {}
        self.files: dict[str, File] = {}
        boundary = boundary_of(content_type)
        self._delimiter = b"\r\n--" + boundary.encode()
        self._held = b"\r\n"  # the first boundary may stand at the very start
        self._offset = -len(self._held)
        """Where the held bytes begin in the body."""
        self._stage = _Stage.PREAMBLE
        self._parts = 0
        self._name = ""
        self._filename: str | None = None
        self._content_type = ""
        self._start = 0

    def feed(self, data: bytes) -> None:
        """Take in the next bytes of the body.

        Raises:
            InvalidRequest: it is no such form, or one of its parts is larger than a form may have it.
        """
        self._held += data
        moved = True
        while moved:
            before = self._stage, self._offset
            match self._stage:
                case _Stage.PREAMBLE | _Stage.CONTENT:
                    self._until_boundary()
                case _Stage.BOUNDARY:
                    self._behind_boundary()
                case _Stage.HEADERS:
                    self._headers()
                case _Stage.OVER:
                    self._drop(len(self._held))
            moved = before != (self._stage, self._offset) and bool(self._held)

    def finish(self) -> None:
        """Say that the body has ended.

        Raises:
            InvalidRequest: the form has not.
        """
        if self._stage is not _Stage.OVER:
            raise InvalidRequest("the form ends in the middle of a part: its last boundary is missing")

    def value(self, name: str) -> str | None:
        """The last value of a field; None: it is not there."""
        given = self.fields.get(name)
        return given[-1].value if given else None

    def values(self, name: str) -> list[str]:
        """All values of a field, in their order; lists may be sent under ``name[]``."""
        return [field.value for key in (name, f"{name}[]") for field in self.fields.get(key, ())]

    # --- stages ---

    def _until_boundary(self) -> None:
        found = self._held.find(self._delimiter)
        is_file = self._filename is not None
        if found < 0:
            if self._stage is _Stage.PREAMBLE or is_file:
                self._drop(max(0, len(self._held) - len(self._delimiter) + 1))
            else:
                self._check_field(len(self._held) - len(self._delimiter))
            return
        if self._stage is _Stage.CONTENT:
            self._keep(self._held[:found], Place(self._start, self._offset + found))
        self._drop(found + len(self._delimiter))
        self._stage = _Stage.BOUNDARY

    def _behind_boundary(self) -> None:
        if self._held.startswith(b"--"):
            self._stage = _Stage.OVER
            return
        end = self._held.find(b"\r\n")
        if end < 0:
            self._check_short("the line of a boundary")
            return
        if self._held[:end].strip(b" \t"):
            raise InvalidRequest("the form has a boundary that does not end its line")
        self._drop(end)  # the headers may be empty, and then this line's end is theirs
        self._stage = _Stage.HEADERS

    def _headers(self) -> None:
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            self._check_short("the headers of a part")
            return
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequest(f"the form has over {MAX_PARTS} parts")
        self._name, self._filename, self._content_type = _described(self._held[2:end])
        self._drop(end + 4)
        self._start = self._offset
        self._stage = _Stage.CONTENT

    def _keep(self, content: bytes, place: Place) -> None:
        if self._filename is not None:
            if self._name in self.files:
                raise InvalidRequest(f"the form has two files named {self._name!r}", param=self._name)
            self.files[self._name] = File(self._filename, self._content_type, place)
            return
        self._check_field(len(content))
        try:
            value = content.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"the field {self._name!r} is no UTF-8", param=self._name) from None
        self.fields.setdefault(self._name, []).append(Field(value, place))

    def _check_field(self, size: int) -> None:
        if size > MAX_FIELD:
            raise InvalidRequest(f"the field {self._name!r} has over {MAX_FIELD} bytes", param=self._name)

    def _check_short(self, what: str) -> None:
        if len(self._held) > MAX_HEADERS:
            raise InvalidRequest(f"{what} has over {MAX_HEADERS} bytes")

    def _drop(self, count: int) -> None:
        self._held = self._held[count:]
        self._offset += count


def read_form(content_type: str, body: bytes) -> FormReader:
    """A form whose body is there.

    Raises:
        InvalidRequest: it is no form.
    """
    reader = FormReader(content_type)
    for start in range(0, len(body), READ_AT_ONCE):  # it never holds more than that
        reader.feed(body[start : start + READ_AT_ONCE])
    reader.finish()
    return reader


def with_value(body: bytes, field: Field, value: str) -> bytes:
    """The body with another value of a field. There are no lengths in a form that would have to change."""
    return body[: field.place.start] + value.encode() + body[field.place.stop :]


def boundary_of(content_type: str) -> str:
    """The boundary that a request's header names.

    Raises:
        InvalidRequest: the header is not that of a form.
    """
    header = _parsed("content-type", content_type)
    boundary = header.get_param("boundary", "")
    if header.get_content_type() != FORM or not isinstance(boundary, str):
        raise InvalidRequest(NEEDS_FORM)
    if not _BOUNDARY.fullmatch(boundary):
        raise InvalidRequest(f"{NEEDS_FORM}; this one's boundary is missing, or none that a form may have")
    return boundary


def _described(lines: bytes) -> tuple[str, str | None, str]:
    """Name, file name (None: no file) and content type of a part, by its headers."""
    headers: dict[str, str] = {}
    for line in lines.decode("utf-8", "replace").split("\r\n"):
        header, _, value = line.partition(":")
        headers[header.strip().lower()] = value.strip()
    disposition = _parsed("content-disposition", headers.get("content-disposition", ""))
    given = disposition.get_param("name", "", "content-disposition")
    name = given if isinstance(given, str) else ""
    if disposition.get_content_disposition() != "form-data" or not name:
        raise InvalidRequest("a part of the form has no name: it needs 'content-disposition: form-data; name=...'")
    return name, disposition.get_filename(), headers.get("content-type", "")


def _parsed(name: str, value: str) -> "Message[str, str]":
    message: Message[str, str] = Message()
    message[name] = value.replace("\r", " ").replace("\n", " ")
    return message
