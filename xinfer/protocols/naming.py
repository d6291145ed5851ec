"""The same request to a model of another name. Pure."""

from collections.abc import Iterable

import msgspec

from xinfer.errors import InvalidRequest
from xinfer.protocols.multipart import FORM, read_form, with_value

_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()


def renamed(body: bytes, model: str) -> bytes:
    """A request body with another value of its member "model"; every other one is copied as its bytes are.

    Raises:
        InvalidRequest: the body is no JSON object.
    """
    try:
        members = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body must be a JSON object: {error}") from None
    members["model"] = msgspec.Raw(_encoder.encode(model))
    return _encoder.encode(members)


def renamed_request(headers: Iterable[tuple[str, str]], body: bytes, model: str) -> bytes:
    """The same for a body that may be a form, as the request's headers say.

    Raises:
        InvalidRequest: it is neither a JSON object nor a form with a model.
    """
    content_type = dict(headers).get("content-type", "")
    if not content_type.lower().startswith(FORM):
        return renamed(body, model)
    named = read_form(content_type, body).fields.get("model")
    if not named:
        raise InvalidRequest("the form must have a field 'model'", param="model")
    return with_value(body, named[-1], model)
