"""What nodes of a cluster say of it: read for what it is, and nonsense never for a place where rows are."""

import math
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from service.errors import StoreError
from service.redis.cluster import SLOTS, Cluster, Redirect, read_ranges, read_redirect, read_view
from service.redis.redis_link import Ears
from service.redis.redis_url import parse_redis_url

ASKED = ("10.0.0.1", 7)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("MOVED 3999 127.0.0.1:6381", Redirect(("127.0.0.1", 6381), True)),
        ("ASK 3999 ::1:6381", Redirect(("::1", 6381), False)),
        ("MOVED 3999 :6381", Redirect(("10.0.0.1", 6381), True)),
        ("MOVED 3999 node.example:6381", Redirect(("node.example", 6381), True)),
        ("MOVED 3999 host:port", None),
        ("MOVED 3999 host:²", None),
        ("MOVED 3999 host:99999999", None),
        ("MOVED", None),
        ("CLUSTERDOWN The cluster is down", None),
    ],
)
def test_redirections(said: str, expected: Redirect | None) -> None:
    assert read_redirect(hiredis.ReplyError(said), ASKED) == expected


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
    ],
)
def test_nonsense_is_no_ranges(reply: Any) -> None:  # noqa: ANN401 - any reply
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
    groups = Cluster(parse_redis_url("redis+cluster://a"), 1.0, [], Ears()).groups(keys)

    assert sorted(place for group in groups for place in group) == list(range(len(keys)))
    slots = [{key_slot(keys[place]) for place in group} for group in groups]
    assert all(len(one) == 1 for one in slots)
    assert len({min(one) for one in slots}) == len(groups)
    assert all(0 <= min(one) < SLOTS for one in slots)
