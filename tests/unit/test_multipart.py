"""Forms with files, however they arrive."""

import itertools

import pytest
from fakes.forms import BOUNDARY, CONTENT_TYPE, form
from hypothesis import given
from hypothesis import strategies as st

from xinfer.errors import InvalidRequest
from xinfer.protocols.multipart import MAX_FIELD, MAX_PARTS, FormReader, boundary_of, read_form, with_value
from xinfer.protocols.naming import renamed_request

contents = st.binary(max_size=200) | st.sampled_from(
    [b"\r\n", b"\r\n--", b"--" + BOUNDARY.encode(), b"\r\n--" + BOUNDARY.encode()[:-1], b"\n\r\n\r--" * 9]
).map(lambda piece: b"x" + piece + b"y")


@given(
    fields=st.lists(st.tuples(st.sampled_from(["model", "prompt", "a[]"]), st.text(max_size=30)), max_size=5),
    file=contents,
    cuts=st.lists(st.integers(0, 1500), max_size=12),
)
def test_a_form_reads_the_same_however_it_is_cut(fields, file, cuts):
    body = form(fields, {"file": file})
    places = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    reader = FormReader(CONTENT_TYPE)
    for start, stop in itertools.pairwise(places):
        reader.feed(body[start:stop])
    reader.finish()
    assert bytes(reader.files["file"].place.of(body)) == file
    found = [(name, field.value) for name, given in reader.fields.items() for field in given]
    assert sorted(found) == sorted(fields)


def test_of_a_file_only_its_place_is_kept():
    body = form([("model", "m")], {"file": bytes(1 << 20)})
    reader = FormReader(CONTENT_TYPE)
    for start in range(0, len(body), 4096):
        reader.feed(body[start : start + 4096])
        assert len(reader._held) < 8192
    reader.finish()
    file = reader.files["file"]
    assert (file.filename, file.content_type, file.place.stop - file.place.start) == ("file.wav", "audio/wav", 1 << 20)


def test_a_list_may_be_sent_under_its_name_with_brackets():
    reader = read_form(CONTENT_TYPE, form([("kind[]", "a"), ("kind", "b"), ("kind[]", "c")]))
    assert reader.values("kind") == ["b", "a", "c"]
    assert (reader.value("kind[]"), reader.value("other")) == ("c", None)


def test_names_may_be_written_in_any_language():
    reader = read_form(CONTENT_TYPE, form([("größe", "日本語")]))
    assert reader.value("größe") == "日本語"


def test_a_value_can_be_replaced():
    body = form([("model", "short"), ("prompt", "p")], {"file": b"data"})
    other = renamed_request([("content-type", CONTENT_TYPE)], body, "a much longer name")
    read = read_form(CONTENT_TYPE, other)
    assert (read.value("model"), read.value("prompt")) == ("a much longer name", "p")
    assert bytes(read.files["file"].place.of(other)) == b"data"
    assert with_value(other, read.fields["model"][0], "short") == body


@pytest.mark.parametrize(
    ("content_type", "word"),
    [
        ("", "must be a form"),
        ("application/json", "must be a form"),
        ("multipart/form-data", "boundary"),
        ('multipart/form-data; boundary=""', "boundary"),
        ("multipart/form-data; boundary=" + "x" * 71, "boundary"),
        ("multipart/form-data; boundary=a\u00e4", "boundary"),
    ],
)
def test_another_body_is_refused(content_type, word):
    with pytest.raises(InvalidRequest, match=word):
        boundary_of(content_type)


def test_the_boundary_may_be_quoted_and_the_header_in_capitals():
    assert boundary_of('Multipart/Form-Data; charset=utf-8; boundary="a b"') == "a b"


LINE = b"--" + BOUNDARY.encode()


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "last boundary is missing"),
        (b"hello", "last boundary is missing"),
        (form([("model", "m")])[:-8], "last boundary is missing"),
        (LINE + b" and more\r\n\r\n", "does not end its line"),
        (LINE + b"\r\n\r\nno headers\r\n" + LINE + b"--", "no name"),
        (LINE + b"\r\ncontent-disposition: attachment; name=a\r\n\r\n\r\n" + LINE + b"--", "no name"),
        (LINE + b"\r\n" + b"x" * 10_000, "over 8192 bytes"),
        (form([("a", "x" * (MAX_FIELD + 1))]), "over 262144 bytes"),
        (form([("a", "")] * (MAX_PARTS + 1)), "over 64 parts"),
        (form([], {"a": b"1"})[: -len(LINE) - 4] + form([], {"a": b"1"}), "two files"),
        (LINE + b'\r\ncontent-disposition: form-data; name="a"\r\n\r\n\xff\r\n' + LINE + b"--", "no UTF-8"),
    ],
)
def test_what_is_no_form_is_refused_in_words(body, word):
    with pytest.raises(InvalidRequest, match=word):
        read_form(CONTENT_TYPE, body)
