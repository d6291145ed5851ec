"""Both sides prove that they know the cluster token before either decodes a byte of the other.

    replica -> gateway   MAGIC, 32 random bytes
    gateway -> replica   32 random bytes, HMAC-SHA256(token, "gateway" + both nonces)
    replica -> gateway   HMAC-SHA256(token, "replica" + both nonces)

A mutual challenge-response as in ISO/IEC 9798-4; the fresh nonces keep a recorded handshake from being replayed, the
role in the MAC keeps a proof from being sent back as one's own. Both classes are sans-I/O: bytes in, bytes to send out.
"""

import hmac
import secrets

MAGIC = b"xinfer/1"
NONCE_BYTES = 32
MAC_BYTES = 32
CHALLENGE_BYTES = len(MAGIC) + NONCE_BYTES
PROOF_BYTES = NONCE_BYTES + MAC_BYTES
TIMEOUT_S = 5.0


class HandshakeError(ConnectionError):
    """The peer does not know the token of this cluster, or is no xinfer process."""


def _mac(token: str, role: str, challenge: bytes, answer: bytes) -> bytes:
    return hmac.digest(token.encode(), role.encode() + challenge + answer, "sha256")


class ReplicaHandshake:
    """The side that accepts a connection. Send ``challenge`` first, then what ``feed`` returns."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._got = b""
        self.done = False

    @property
    def challenge(self) -> bytes:
        """The first bytes on the connection."""
        return MAGIC + self._nonce

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """(bytes to send, bytes that follow the handshake).

        Raises:
            HandshakeError: the gateway does not know the token; close without a word.
        """
        self._got += data
        if len(self._got) < PROOF_BYTES:
            return b"", b""
        answer, mac, rest = self._got[:NONCE_BYTES], self._got[NONCE_BYTES:PROOF_BYTES], self._got[PROOF_BYTES:]
        if not hmac.compare_digest(mac, _mac(self._token, "gateway", self._nonce, answer)):
            raise HandshakeError("the peer does not know the cluster token")
        self.done = True
        return _mac(self._token, "replica", self._nonce, answer), rest


class GatewayHandshake:
    """The side that opened the connection."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._challenge = b""
        self._got = b""
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """(bytes to send, bytes that follow the handshake).

        Raises:
            HandshakeError: the other side is no replica, or does not know our token.
        """
        self._got += data
        if not self._challenge:
            if len(self._got) < CHALLENGE_BYTES:
                return b"", b""
            if not self._got.startswith(MAGIC):
                raise HandshakeError("no xinfer replica answers at this address")
            self._challenge, self._got = self._got[len(MAGIC) : CHALLENGE_BYTES], self._got[CHALLENGE_BYTES:]
            return self._nonce + _mac(self._token, "gateway", self._challenge, self._nonce), b""
        if len(self._got) < MAC_BYTES:
            return b"", b""
        mac, rest = self._got[:MAC_BYTES], self._got[MAC_BYTES:]
        if not hmac.compare_digest(mac, _mac(self._token, "replica", self._challenge, self._nonce)):
            raise HandshakeError("the replica could not prove that it knows the cluster token")
        self.done = True
        return b"", rest
