"""So many a second, and as many at once as a second has: what nobody used for longer is lost."""

import asyncio
import time


class Rate:
    """Portions of a bounded flow."""

    def __init__(self, per_s: float) -> None:
        self.per_s = per_s
        self._most = max(1.0, per_s)
        self._left = self._most
        self._at = time.monotonic()

    async def take(self, wanted: int) -> int:
        """Waits until at least one may go, and says how many of those wanted may."""
        while (allowed := min(wanted, int(self._refilled()))) < 1:
            await asyncio.sleep((1.0 - self._left) / self.per_s)
        self._left -= allowed
        return allowed

    def _refilled(self) -> float:
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self.per_s)
        self._at = now
        return self._left
