import itertools
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.channel.handshake import (
    CHALLENGE_BYTES,
    MAC_BYTES,
    MAGIC,
    NONCE_BYTES,
    PROOF_BYTES,
    GatewayHandshake,
    HandshakeError,
    ReplicaHandshake,
)

TOKEN = "the token of this cluster"


class Met(NamedTuple):
    """Two sides that have shaken hands, and the bytes that went each way."""

    gateway: GatewayHandshake
    replica: ReplicaHandshake
    to_replica: bytes
    to_gateway: bytes


def meet(gateway_token: str = TOKEN, replica_token: str = TOKEN) -> Met:
    gateway, replica = GatewayHandshake(gateway_token), ReplicaHandshake(replica_token)
    proof, _ = gateway.feed(replica.challenge)
    answer, _ = replica.feed(proof)
    gateway.feed(answer)
    return Met(gateway, replica, proof, replica.challenge + answer)


def test_two_that_know_the_token_believe_each_other():
    met = meet()
    assert met.gateway.done
    assert met.replica.done
    assert (len(met.to_replica), len(met.to_gateway)) == (PROOF_BYTES, CHALLENGE_BYTES + MAC_BYTES)


def test_the_token_itself_is_never_sent():
    met = meet()
    assert TOKEN.encode() not in met.to_replica + met.to_gateway


@given(sizes=st.lists(st.integers(1, 50), min_size=1), extra=st.binary(max_size=100))
def test_it_works_however_the_bytes_are_cut_and_what_follows_is_kept(sizes, extra):
    gateway, replica = GatewayHandshake(TOKEN), ReplicaHandshake(TOKEN)

    def pieces(data):
        edges = [0, *(edge for edge in itertools.accumulate(sizes) if edge < len(data)), len(data)]
        return [data[start:end] for start, end in itertools.pairwise(edges)]

    proof = b"".join(gateway.feed(piece)[0] for piece in pieces(replica.challenge))
    got = [replica.feed(piece) for piece in pieces(proof)]
    answer = b"".join(reply for reply, _ in got)
    assert [rest for _, rest in got if rest] == []
    assert replica.done
    # What follows a handshake comes out of the feed that completes it; later bytes are not the handshake's.
    early, last = answer[:-1], answer[-1:] + extra
    for piece in early:
        assert gateway.feed(bytes([piece])) == (b"", b"")
    assert gateway.feed(last) == (b"", extra)
    assert gateway.done


def test_a_gateway_with_another_token_is_refused_without_a_word():
    gateway, replica = GatewayHandshake("guessed"), ReplicaHandshake(TOKEN)
    proof, _ = gateway.feed(replica.challenge)
    with pytest.raises(HandshakeError, match="does not know the cluster token"):
        replica.feed(proof)
    assert not replica.done


def test_a_replica_with_another_token_is_not_believed():
    gateway, impostor = GatewayHandshake(TOKEN), ReplicaHandshake("guessed")
    gateway.feed(impostor.challenge)
    with pytest.raises(HandshakeError, match="could not prove"):
        gateway.feed(bytes(MAC_BYTES))
    assert not gateway.done


def test_a_recorded_handshake_opens_nothing():
    met = meet()
    replica, gateway = ReplicaHandshake(TOKEN), GatewayHandshake(TOKEN)
    with pytest.raises(HandshakeError):
        replica.feed(met.to_replica)
    gateway.feed(met.to_gateway[:CHALLENGE_BYTES])
    with pytest.raises(HandshakeError):
        gateway.feed(met.to_gateway[CHALLENGE_BYTES:])


def test_a_proof_sent_back_as_ones_own_is_none():
    """An impostor that knows no token hands the gateway's own proof back, and the gateway's nonce as its own."""
    gateway, replica = GatewayHandshake(TOKEN), ReplicaHandshake(TOKEN)
    proof, _ = gateway.feed(replica.challenge)
    with pytest.raises(HandshakeError):
        gateway.feed(proof[NONCE_BYTES:])

    first, second = ReplicaHandshake(TOKEN), GatewayHandshake(TOKEN)
    proof, _ = second.feed(first.challenge)
    answer, _ = first.feed(proof)
    another = ReplicaHandshake(TOKEN)
    with pytest.raises(HandshakeError):
        another.feed(proof[:NONCE_BYTES] + answer)


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(20), b"SSH-2.0-OpenSSH_9.6" * 3])
def test_another_service_at_the_address_is_told_apart(greeting):
    with pytest.raises(HandshakeError, match="no xinfer replica"):
        GatewayHandshake(TOKEN).feed(greeting)


def test_half_a_handshake_is_none():
    replica = ReplicaHandshake(TOKEN)
    proof, _ = GatewayHandshake(TOKEN).feed(replica.challenge)
    assert replica.feed(proof[:-1]) == (b"", b"")
    assert not replica.done
    gateway = GatewayHandshake(TOKEN)
    assert gateway.feed(MAGIC) == (b"", b"")
    assert not gateway.done


@given(noise=st.binary(max_size=300))
def test_noise_never_authenticates_and_nothing_of_it_gets_through(noise):
    for side in (ReplicaHandshake(TOKEN), GatewayHandshake(TOKEN)):
        try:
            _, rest = side.feed(noise)
        except HandshakeError:
            rest = b""
        assert rest == b""
        assert not side.done
