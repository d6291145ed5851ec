"""Where images are in prompts for llama.cpp, and which positions they take."""

from xinfer.engines.llama_cpp.images import ImageSpan, before_image, image_at, position_of, stand_in, whole_images
from xinfer.engines.llama_cpp.slots import Found, SlotTable
from xinfer.engines.token_engine import Sequence
from xinfer.generation.sampling import Sampling

SPANS = (ImageSpan(10, 6, 2, None), ImageSpan(20, 4, 4, None))
"""The first one has six tokens at two positions."""


def test_positions_behind_images():
    assert [position_of(index, SPANS) for index in (0, 10, 16, 20, 24, 30)] == [0, 10, 12, 16, 20, 26]


def test_an_image_is_shared_as_a_whole():
    assert [whole_images(length, SPANS) for length in (9, 10, 11, 15, 16, 22, 24)] == [9, 10, 10, 10, 16, 20, 24]


def test_text_is_read_up_to_the_next_image():
    assert [before_image(filled, 30, SPANS) for filled in (0, 9, 10, 16, 24, 30)] == [10, 1, 0, 4, 6, 0]
    assert image_at(10, SPANS) == SPANS[0]
    assert image_at(16, SPANS) is None


def test_images_are_known_by_their_content():
    assert stand_in("a", 0) == stand_in("a", 0) < 0
    assert len({stand_in("a", 0), stand_in("a", 1), stand_in("b", 0)}) == 3


def test_of_another_image_only_what_is_before_it_is_shared():
    table = SlotTable(3)
    before = list(range(100, 160))

    def prompt(content: int) -> tuple[list[int], tuple[ImageSpan, ...]]:
        return [*before, *[content] * 8, 1, 2], (ImageSpan(60, 8, 3, None),)

    tokens, spans = prompt(-5)
    sequence = Sequence(tokens, Sampling(max_tokens=1), receiver=None)
    sequence.images = spans
    found = table.place(tokens, images=spans)
    assert isinstance(found, Found)
    slot = table.take(found, sequence, tokens)
    slot.filled = 60
    assert (slot.readable, slot.image, slot.position) == (0, spans[0], 60)
    slot.filled = 68
    assert (slot.readable, slot.image, slot.position) == (2, None, 63)
    slot.filled = 70
    table.free(slot)
    assert [table.place(prompt(content)[0], images=spans).shared for content in (-5, -6)] == [69, 60]
    longer = [*tokens[:64], *[-5] * 8]  # the same content at another place: no image ends where that one did
    assert table.place(longer, images=(ImageSpan(60, 12, 3, None),)).shared == 60
