"""What a reply may claim: whatever Redis sends passes, however it is cut; a claim that would take memory does not."""

from collections import deque

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.redis.redis_line import ReplyBounds

SCALARS = st.one_of(
    st.binary(max_size=40).map(lambda value: b"$%d\r\n%b\r\n" % (len(value), value)),
    st.sampled_from([b"$-1\r\n", b"_\r\n", b":7\r\n", b"+OK\r\n", b"-ERR no\r\n", b"#t\r\n", b",1.5\r\n", b"(1\r\n"]),
    st.just(b"$3\r\nabc\r\n"),
)


def aggregates(children: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Lists, pushes and maps of some elements."""
    lists = st.tuples(st.sampled_from(b"*>"), st.lists(children, max_size=6)).map(
        lambda drawn: b"%c%d\r\n%b" % (drawn[0], len(drawn[1]), b"".join(drawn[1]))
    )
    maps = st.lists(st.tuples(SCALARS, children), max_size=3).map(
        lambda pairs: b"%%%d\r\n%b" % (len(pairs), b"".join(map(b"".join, pairs)))
    )
    return lists | maps


REPLIES = st.lists(st.recursive(SCALARS, aggregates, max_leaves=6), min_size=1, max_size=3)


@given(REPLIES, st.lists(st.integers(0, 400), max_size=8))
def test_what_is_well_formed_passes_however_it_is_cut(replies: list[bytes], cuts: list[int]) -> None:
    sent, bounds = b"".join(replies), ReplyBounds()
    places = sorted({0, *(cut for cut in cuts if cut < len(sent)), len(sent)})
    for start, end in zip(places, places[1:], strict=False):
        bounds.check(sent[start:end])

    assert (bounds._line, bounds._skip, bounds._due, bounds._size) == (b"", 0, 0, 0)


@given(REPLIES, st.data())
def test_what_has_not_ended_is_known_to_be_due(replies: list[bytes], data: st.DataObject) -> None:
    sent, bounds, reader = b"".join(replies), ReplyBounds(), hiredis.Reader(notEnoughData=Ellipsis)
    cut = data.draw(st.integers(0, len(sent)))
    bounds.check(sent[:cut])
    reader.feed(sent[:cut])
    count = 0
    try:
        while reader.gets() is not Ellipsis:
            count += 1
    except TypeError:
        return  # a map with a key that Python's cannot have
    is_between = cut in {sum(map(len, replies[:number])) for number in range(len(replies) + 1)}
    assert (bounds._size == 0) == is_between


@pytest.mark.parametrize(
    "claim",
    [
        b"*2000000000\r\n",
        b"%600000\r\n",
        b">1048577\r\n",
        b"*3\r\n$1\r\na\r\n*1048576\r\n",
        b"$2000000000\r\n",
        b"*" + b"9" * 5_000 + b"\r\n",
        b"*x\r\n",
        b"$\r\n",
        b"*100000\r\n" * 11,
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"+" + b"x" * 70_000,
        b"\r\n" * 5,
        b"*9\r\n\r\n\r\n\r\n",
    ],
)
def test_a_claim_over_a_limit_is_refused_before_memory_is_taken(claim: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        ReplyBounds().check(claim)


def test_a_reply_that_never_ends_is_refused() -> None:
    bounds, piece = ReplyBounds(), b"$%d\r\n%b\r\n" % (2**20, bytes(2**20))
    bounds.check(b"*1000\r\n")
    with pytest.raises(ValueError, match="a reply of more than 67108864"):
        deque(map(bounds.check, [piece] * 100))
    fresh = ReplyBounds()
    for _ in range(100):
        fresh.check(piece)
