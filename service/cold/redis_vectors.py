"""Vectors of texts in Redis, shared between services, below the bundle's prefix, with a TTL.

A value is used only if it proves to be the vector of this text by this encoder.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import hiredis
import structlog

from msd.contract.bundle import Bundle
from service.cold.encoded import Vector, pack_vector, unpack_vector
from service.redis.keys import encoded_key
from service.redis.redis_line import pack
from service.redis.redis_link import Command
from service.redis.topology import open_nodes
from service.telemetry.metrics import Metrics


class RedisVectors:
    """Never fails: an unreachable Redis returns nothing and stores nothing."""

    def __init__(self, url: str, timeout_s: float, ttl_s: int, metrics: Metrics) -> None:
        self._nodes = open_nodes(url, timeout_s)
        self._ttl = b"%d" % ttl_s
        self._metrics = metrics
        self._log = structlog.get_logger("msd.encoder")

    async def read(self, bundle: Bundle, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """Return the stored and undamaged vectors by key."""
        bundle_id, width = bundle.bundle_id, bundle.schema.semantic_width("item")
        names = [encoded_key(bundle_id, key).encode() for key in keys]
        found: dict[bytes, Vector] = {}

        def accept(places: Sequence[int], replies: Sequence[Any], epoch: int) -> None:
            for place, reply in zip(places, replies, strict=True):
                if reply is None:
                    continue
                vector = unpack_vector(keys[place], width, reply) if isinstance(reply, bytes) else None
                if vector is None:
                    self._metrics.shelf_damaged.inc()
                else:
                    found[keys[place]] = vector

        await self._nodes.ask([Command(name, pack(b"GET", name)) for name in names], accept)
        return found

    async def write(self, bundle: Bundle, vectors: Mapping[bytes, Vector]) -> None:
        """Store vectors, each atomically."""
        commands = []
        for key, vector in vectors.items():
            name = encoded_key(bundle.bundle_id, key).encode()
            commands.append(Command(name, pack(b"SET", name, pack_vector(key, vector), b"EX", self._ttl)))
        refused: list[object] = []

        def accept(places: Sequence[int], replies: Sequence[Any], epoch: int) -> None:
            refused.extend(reply for reply in replies if isinstance(reply, hiredis.ReplyError))

        answers = await self._nodes.ask(commands, accept)
        if refused or answers.error is not None:
            self._log.warning("not_written_back", reason=str(answers.error or refused[0]))

    async def close(self) -> None:
        """Close the connections."""
        await self._nodes.close()
