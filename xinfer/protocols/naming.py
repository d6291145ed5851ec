"""The same request to a model of another name. Pure."""

import msgspec

from xinfer.errors import InvalidRequest

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
