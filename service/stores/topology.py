"""Which form of Redis a URL leads to, and the nodes that it has."""

import itertools
from collections.abc import Sequence

from service.redis_url import parse_redis_url
from service.stores.nodes import Nodes, OneServer
from service.stores.redis_line import Target
from service.stores.redis_link import Ears, RedisLink


def open_nodes(url: str, timeout_s: float, prefixes: Sequence[bytes], ears: Ears) -> Nodes:
    """The nodes behind a URL, not yet connected. `timeout_s`: of one question and its answer. `prefixes`: of the keys
    to hear of when they change; empty for none, which servers without tracking can do, too. Raises StoreError where
    the URL has an option that cannot be."""
    parsed = parse_redis_url(url)
    target = Target(parsed.of_server(("", 0)), prefixes)

    async def seek() -> Target:
        return target

    return OneServer(RedisLink(parsed.address, seek, timeout_s, itertools.count(), ears))
