"""SGLang's refusals in fewer words: it shows whole validation errors, with the places in its code. Pure."""

import re
from collections.abc import Mapping

from xinfer.engines.passthrough import refusal
from xinfer.errors import XinferError

_FAULT = re.compile(
    r"'loc': \('body', (?P<field>'[^']+'|\d+).*?'msg': (?P<quote>['\"])(?P<words>.*?)(?P=quote), 'input'"
)


def refused(status: int, body: bytes, _headers: Mapping[bytes, bytes]) -> XinferError:
    """An error answer as one of our errors."""
    error = refusal(status, body)
    faults = list(_FAULT.finditer(error.message))
    if not faults:
        return error
    field = faults[0]["field"]
    said = dict.fromkeys(fault["words"] for fault in faults if fault["field"] == field)
    name = field.strip("'")
    what = "the body" if name.isdigit() else repr(name)  # the place of a byte
    return type(error)(f"{what}: {'; or '.join(said)}", param=None if name.isdigit() else name)
