"""JSON that Python parses: bounded in keys and values; large bodies beside the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import native
from msd.contract.request import load_json
from service import limits
from service.errors import BodyTooLarge

# Parsing a smaller body takes less time than waiting for a thread.
_SMALL_BYTES, _SMALL_PARTS = 2**14, 2_000
# A request with all columns has fewer.
_PARTS_PER_CANDIDATE = 10
_T = TypeVar("_T")


class JsonParser:
    """Parses one large body at a time, so that parsing delays small ones by a moment only."""

    def __init__(self, max_candidates: int) -> None:
        """`max_candidates`: of one request."""
        self._max_parts = max(limits.MAX_JSON_PARTS, _PARTS_PER_CANDIDATE * max_candidates)
        self._turn = asyncio.Lock()

    async def parse(self, body: bytes, parse: Callable[[bytes], _T]) -> _T:
        """Return the body parsed. Raises BodyTooLarge for one with too many parts, and what `parse` raises."""
        if len(body) <= _SMALL_BYTES and native.core.json_parts(body) <= _SMALL_PARTS:
            return parse(body)
        async with self._turn:
            return await asyncio.to_thread(self._parse, body, parse)

    def check(self, body: bytes) -> None:
        """Raise BodyTooLarge for a body with too many keys and values."""
        if len(body) > self._max_parts and native.core.json_parts(body) > self._max_parts:
            raise BodyTooLarge(
                f"the body has more than {self._max_parts:,} keys and values, and is not examined further; send fewer"
            )

    def load(self, body: bytes) -> object:
        """Return the document, as `load_json` does. Raises BodyTooLarge, MalformedRequest."""
        self.check(body)
        return load_json(body)

    def _parse(self, body: bytes, parse: Callable[[bytes], _T]) -> _T:
        self.check(body)
        return parse(body)
