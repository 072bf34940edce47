"""Which form of Redis a URL leads to, and the nodes that it has."""

import itertools
from collections.abc import Sequence

from service.redis.cluster import Cluster
from service.redis.nodes import Nodes, OneServer
from service.redis.redis_line import Target
from service.redis.redis_link import Ears, RedisLink
from service.redis.redis_url import RedisUrl, parse_redis_url
from service.redis.sentinel import SentinelMaster, Sentinels


def open_nodes(url: str, timeout_s: float, prefixes: Sequence[bytes] = (), ears: Ears | None = None) -> Nodes:
    """The nodes behind a URL, not yet connected. `timeout_s`: of one question and its answer. `prefixes`: of the keys
    to hear of when they change; empty for none, which servers without tracking can do, too. Raises StoreError where
    the URL has an option that cannot be."""
    ears = ears or Ears.deaf()
    parsed = parse_redis_url(url)
    # Looked at before anything connects.
    Target(parsed.of_server(("", 0)), prefixes)
    if parsed.form == "cluster":
        return Cluster(parsed, timeout_s, prefixes, ears)
    if parsed.form == "sentinel":
        sentinels = Sentinels(parsed, prefixes)
        link = RedisLink(parsed.address, sentinels.seek, timeout_s, itertools.count(), ears, needs_master=True)
        return SentinelMaster(link, sentinels)
    return OneServer(_link(parsed, timeout_s, prefixes, ears))


def _link(url: RedisUrl, timeout_s: float, prefixes: Sequence[bytes], ears: Ears) -> RedisLink:
    async def seek() -> Target:
        return Target(url.plain, prefixes)

    return RedisLink(url.address, seek, timeout_s, itertools.count(), ears)
