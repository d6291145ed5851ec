"""Forms with files, as clients send them."""

from collections.abc import Iterable, Mapping

BOUNDARY = "----form-3f2b"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def form(
    fields: Iterable[tuple[str, str]] = (), files: Mapping[str, bytes] | None = None, boundary: str = BOUNDARY
) -> bytes:
    """The body of a form; every file is named like its field, with ``.wav`` behind it."""
    parts = [f'content-disposition: form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in fields]
    for name, data in (files or {}).items():
        head = (
            f'Content-Disposition: form-data; name="{name}"; filename="{name}.wav"\r\nContent-Type: audio/wav\r\n\r\n'
        )
        parts.append(head.encode() + data)
    return b"".join(b"--%s\r\n%s\r\n" % (boundary.encode(), part) for part in parts) + b"--%s--\r\n" % boundary.encode()
