"""Offers of another protocol are passed over, wherever the network cuts them, and no byte is won or lost by it."""

from hypothesis import assume, example, given
from hypothesis import strategies as st

from service.http.upgrade import Offers

_PIECES = [
    b"\r\n",
    b"\r",
    b"\n",
    b"Upgrade:",
    b"UPGRADE: h2c",
    b"upgrade",
    b"Up",
    b"GET / HTTP/1.1",
    b"a: b",
    b" ",
    b":",
]
HEADS = st.lists(st.sampled_from(_PIECES) | st.binary(max_size=3), max_size=12).map(b"".join)


def passed(pieces: list[bytes]) -> bytes:
    """What the parser sees of a head that comes in pieces; its end lets go of what was held."""
    offers = Offers()
    return b"".join(offers.pass_over(piece, is_body=False) for piece in pieces)


@given(HEADS, st.lists(st.integers(0, 60)))
@example(b"GET / HTTP/1.1\r\nUPGRADE: h2c", [15, 16, 20])
def test_a_cut_changes_nothing(head: bytes, cuts: list[int]) -> None:
    whole = head + b"\r\nlast: 1\r\n\r\n"
    # Behind a head's end is a body, which is another matter.
    assume(whole.index(b"\r\n\r\n") == len(whole) - 4)
    places = [0, *sorted(place for place in cuts if place < len(whole)), len(whole)]
    seen = passed([whole[start:end] for start, end in zip(places, places[1:], strict=False)])

    assert seen == passed([whole])
    assert len(seen) == len(whole)
    assert b"\r\nupgrade:" not in seen.lower()


@given(st.binary(max_size=60))
def test_of_a_body_no_byte_is_held_or_moved(body: bytes) -> None:
    seen = Offers().pass_over(body + b"\r\n", is_body=True)

    assert len(seen) == len(body) + 2
    assert seen == body + b"\r\n" or b"\r\nupgrade:" in body.lower()


def test_a_body_with_an_offer_keeps_its_length() -> None:
    """Were it longer, its end would be read as the connection's next request: a body could smuggle one in."""
    head = b"POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\n"
    body = b" HTTP/1.\r\nUpgrade: x\r\nUpgrade:"
    assert len(Offers().pass_over(head + body, is_body=False)) == len(head + body)


def test_the_next_heads_offer_is_passed_over_too() -> None:
    one = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
    seen = Offers().pass_over(one + b"POST / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n", is_body=False)

    assert b"x-grade: h2c" in seen
