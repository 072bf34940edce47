"""So many a second, and as many at once as a second has: what nobody used for longer is lost.

At the bound they go several at a time: together they cost less than half of what they cost one by one.
"""

import asyncio
import time

_TOGETHER_S = 0.2


class Rate:
    """Portions of a bounded flow."""

    def __init__(self, per_s: float) -> None:
        self.per_s = per_s
        self._most = max(1.0, per_s)
        self._left = self._most
        self._at = time.monotonic()

    async def take(self, wanted: int) -> int:
        """Waits until at least one may go, and says how many of those wanted may. Where none may at once, it waits for
        a fifth of a second's portion, or all that are wanted."""
        if self._refilled() < 1.0:
            some = max(1.0, min(wanted, self.per_s * _TOGETHER_S))
            while self._refilled() < some:
                await asyncio.sleep((some - self._left) / self.per_s)
        allowed = min(wanted, int(self._left))
        self._left -= allowed
        return allowed

    def _refilled(self) -> float:
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self.per_s)
        self._at = now
        return self._left
