"""What Redis URLs mean, what cluster nodes may answer, and how large a reply may claim to be."""

import math
from collections import deque
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from service.errors import StoreError
from service.redis.cluster import SLOTS, Cluster, Redirect, read_ranges, read_redirect, read_view
from service.redis.redis_line import ReplyBounds
from service.redis.redis_url import parse_redis_url
from tests.service.resp_server import REPLIES

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "form", "address", "first"),
    [
        ("redis://localhost", "server", "localhost:6379", "redis://localhost"),
        (f"rediss://u:{SECRET}@redis.example:6380/2", "server", "redis.example:6380", None),
        (f"redis://:{SECRET}@[::1]:6379/0", "server", "[::1]:6379", None),
        ("unix:///run/redis.sock", "server", "unix:/run/redis.sock", "unix:///run/redis.sock"),
        (
            f"redis+sentinel://u:{SECRET}%40@a:1,b,[::2]:3/ads/2?sentinel_password=s%26&x=1",
            "sentinel",
            "a:1,b:26379,[::2]:3 (ads)",
            f"redis://u:{SECRET}%40@h:9/2?x=1",
        ),
        ("redis+sentinel://a/ads", "sentinel", "a:26379 (ads)", "redis://h:9/0"),
        ("redis+cluster://a,b:7/", "cluster", "a:6379,b:7", "redis://h:9/0"),
        ("rediss+cluster://u:p@a?ssl_ca_certs=/c.pem", "cluster", "a:6379", "rediss://u:p@h:9/0?ssl_ca_certs=%2Fc.pem"),
    ],
)
def test_forms(url: str, form: str, address: str, first: str | None) -> None:
    parsed = parse_redis_url(url)

    assert (parsed.form, parsed.address) == (form, address)
    assert parsed.of_server(("h", 9)) == (first or url)
    assert SECRET not in repr(parsed)


def test_sentinels_have_credentials_of_their_own() -> None:
    parsed = parse_redis_url("rediss+sentinel://u:p@a/ads/2?sentinel_username=w&sentinel_password=s%26&ssl_ca_certs=/c")

    assert parsed.of_sentinel(("::1", 5)) == "rediss://[::1]:5/0?ssl_ca_certs=%2Fc&username=w&password=s%26"
    assert parse_redis_url("redis+sentinel://u:p@a/ads").of_sentinel(("a", 5)) == "redis://a:5/0"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        f"http://:{SECRET}@h/",
        f"redis://:{SECRET}@/0",
        f"redis://:{SECRET}@h:port/0",
        f"redis://:{SECRET}@a:1,b:2/0",
        f"redis+sentinel://:{SECRET}@a",
        f"redis+sentinel://:{SECRET}@a/ads/x",
        f"redis+sentinel://:{SECRET}@a,,b/ads",
        f"redis+cluster://:{SECRET}@a/3",
        f"redis+ring://:{SECRET}@a",
        f"unix+cluster://:{SECRET}@/a",
        f"redis://:{SECRET}@[::1/0",
    ],
)
def test_invalid_redis_url_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="redis") as caught:
        parse_redis_url(url)
    assert SECRET not in str(caught.value)


@given(REPLIES, st.lists(st.integers(0, 400), max_size=8))
def test_well_formed_replies_pass_however_they_are_cut(replies: list[bytes], cuts: list[int]) -> None:
    sent, bounds = b"".join(replies), ReplyBounds()
    places = sorted({0, *(cut for cut in cuts if cut < len(sent)), len(sent)})
    for start, end in zip(places, places[1:], strict=False):
        bounds.check(sent[start:end])

    assert (bounds._line, bounds._skip, bounds._due, bounds._size) == (b"", 0, 0, 0)


@given(REPLIES, st.data())
def test_incomplete_reply_is_pending(replies: list[bytes], data: st.DataObject) -> None:
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
def test_claim_over_a_limit_is_refused_before_memory_is_taken(claim: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        ReplyBounds().check(claim)


def test_reply_that_never_ends_is_refused() -> None:
    bounds, piece = ReplyBounds(), b"$%d\r\n%b\r\n" % (2**20, bytes(2**20))
    bounds.check(b"*1000\r\n")
    with pytest.raises(ValueError, match="a reply of more than 67108864"):
        deque(map(bounds.check, [piece] * 100))
    fresh = ReplyBounds()
    for _ in range(100):
        fresh.check(piece)


ASKED = ("10.0.0.1", 7)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("MOVED 3999 127.0.0.1:6381", Redirect(("127.0.0.1", 6381), True)),
        ("ASK 3999 ::1:6381", Redirect(("::1", 6381), False)),
        ("MOVED 3999 :6381", Redirect(("10.0.0.1", 6381), True)),
        ("MOVED 3999 node.example:6381", Redirect(("node.example", 6381), True)),
        ("MOVED 3999 host:port", None),
        ("MOVED 3999 host:99999999", None),
        ("MOVED", None),
        ("CLUSTERDOWN The cluster is down", None),
    ],
)
def test_redirections(error: str, expected: Redirect | None) -> None:
    assert read_redirect(hiredis.ReplyError(error), ASKED) == expected


def test_ranges_by_master() -> None:
    replica = [b"10.0.0.9", 7, b"id"]
    reply = [
        [0, 99, [b"10.0.0.2", 7, b"id", []], replica],
        [200, 299, [b"10.0.0.2", 7, b"id"]],
        [100, 199, [None, 8, b"id"]],
        [300, 300, [b"", 9, b"id"]],
        [301, 400, [b"?", 9, b"id"]],
    ]

    assert read_ranges(reply, ASKED) == {
        ("10.0.0.2", 7): [(0, 99), (200, 299)],
        ("10.0.0.1", 8): [(100, 199)],
        ("10.0.0.1", 9): [(300, 300)],
    }


@pytest.mark.parametrize(
    "reply",
    [
        None,
        [],
        5,
        b"x",
        [[0]],
        [[0, 1, None]],
        [[0, 1, [b"h", b"p"]]],
        [["a", 1, [b"h", 1]]],
        [[0, 16384, [b"h", 1]]],
        [[math.inf, 1, [b"h", 1]]],
        [[0, 16383, [b"h", 1]], [5, 5, [b"i", 1]]],
        [[slot, slot, [b"h", slot + 1]] for slot in range(1_001)],
    ],
)
def test_malformed_slot_ranges_are_refused(reply: Any) -> None:  # noqa: ANN401 - any reply
    with pytest.raises(StoreError):
        read_ranges(reply, ASKED)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (b"cluster_state:ok\r\ncluster_current_epoch:6\r\n", 6),
        (b"cluster_state:fail\r\ncluster_current_epoch:6\r\n", -1),
        (b"cluster_state:ok\r\ncluster_current_epoch:x\r\n", -1),
        (b"", -1),
        (None, -1),
        (hiredis.ReplyError("ERR"), -1),
    ],
)
def test_views(info: Any, expected: int) -> None:  # noqa: ANN401 - any reply
    assert read_view(info) == expected


@given(st.lists(st.binary(max_size=12), max_size=60))
def test_groups_have_each_place_once_and_one_slot(keys: list[bytes]) -> None:
    groups = Cluster(parse_redis_url("redis+cluster://a"), 1.0, [], lambda keys: None).groups(keys)

    assert sorted(place for group in groups for place in group) == list(range(len(keys)))
    slots = [{key_slot(keys[place]) for place in group} for group in groups]
    assert all(len(group) == 1 for group in slots)
    assert len({min(group) for group in slots}) == len(groups)
    assert all(0 <= min(group) < SLOTS for group in slots)
