import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.channel import wire
from xinfer.channel.wire import Failure, FrameReader, Kind
from xinfer.engines.base import SSE_HEAD, Call, Load
from xinfer.ops import Op

u32 = st.integers(0, 2**32 - 1)
frames = st.lists(st.tuples(u32, st.sampled_from(Kind), st.binary(max_size=300)), max_size=12)


@given(sent=frames, cuts=st.lists(st.integers(0, 4000), max_size=20))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(sent, cuts):
    stream = b"".join(wire.frame(*one) for one in sent)
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    reader = FrameReader()
    got = [frame for a, b in itertools.pairwise(places) for frame in reader.feed(stream[a:b])]
    assert got == sent


@given(sent=frames)
def test_each_frame_comes_out_with_its_last_byte(sent):
    reader = FrameReader()
    for one in sent:
        *early, last = [bytes([byte]) for byte in wire.frame(*one)]
        assert [frame for byte in early for frame in reader.feed(byte)] == []
        assert reader.feed(last) == [one]


def test_reading_is_linear_in_the_bytes_of_a_frame():
    """A reader that joined at each of these 65,536 pieces would copy half a terabyte here and not come to an end."""
    piece = bytes(256)
    count = 65536
    reader = FrameReader()
    assert reader.feed(wire.header(7, Kind.BODY, count * len(piece))) == []
    got = [frame for _ in range(count) for frame in reader.feed(piece)]
    assert got == [(7, Kind.BODY, bytes(count * len(piece)))]


def test_a_frame_that_cannot_be_meant_is_refused_before_it_is_collected():
    with pytest.raises(wire.WireError, match="1073741825 bytes"):
        FrameReader().feed(wire.HEADER.pack(wire.MAX_FRAME + 1, 1, Kind.BODY))


@given(
    call=st.builds(
        Call,
        request_id=st.text(),
        op=st.sampled_from(Op),
        body=st.binary(),
        model=st.text(),
        headers=st.lists(st.tuples(st.text(), st.text())).map(tuple),
    )
)
def test_a_call_survives_the_wire(call):
    assert wire.decode_call(wire.encode_call(call)) == call


@given(
    failure=st.builds(
        Failure,
        st.text(),
        st.text(),
        st.text(),
        st.integers(400, 599),
        st.booleans(),
        st.none() | st.text(),
        st.none() | st.integers(0, 1000),
    )
)
def test_a_failure_survives_the_wire(failure):
    assert wire.decode_failure(wire.encode_failure(failure)) == failure


def test_a_head_survives_the_wire():
    assert wire.decode_head(wire.encode_head(SSE_HEAD)) == SSE_HEAD


@given(load=st.builds(Load, u32, u32, u32, st.floats(0, 1, width=32), st.floats(0, 1e6, width=32)))
def test_a_load_survives_the_wire(load):
    [(call, kind, payload)] = FrameReader().feed(wire.encode_load(load))
    assert (call, kind) == (0, Kind.LOAD)
    assert wire.decode_load(payload) == load


@given(call=u32, amount=u32)
def test_a_credit_survives_the_wire(call, amount):
    [(number, kind, payload)] = FrameReader().feed(wire.encode_credit(call, amount))
    assert (number, kind, wire.decode_credit(payload)) == (call, Kind.CREDIT, amount)


@pytest.mark.parametrize(
    ("decode", "payload"),
    [
        (wire.decode_call, b"\xc1"),
        (wire.decode_call, b"\x81\xa1\xff\x00"),
        (wire.decode_call, b""),
        (wire.decode_head, b"\x00"),
        (wire.decode_failure, b"\x90"),
        (wire.decode_load, b"short"),
        (wire.decode_credit, struct.pack("<Q", 1)),
    ],
)
def test_a_payload_of_another_protocol_raises_what_both_sides_catch(decode, payload):
    with pytest.raises(wire.MALFORMED):
        decode(payload)
