"""Spending cap of a run, shared by all its requests. Sends nothing."""

import asyncio
import math

from msd.teachers.knowledge import TeacherError
from msd.teachers.teacher import Prices


class BudgetSpent(TeacherError):
    """The next request could cost more than is left of the spending cap."""


class Budget:
    """Spending cap of a run's requests, at a teacher's prices. A request's maximum cost is held until its reply
    arrives."""

    def __init__(self, cap: float | None = None, prices: Prices | None = None) -> None:
        self.cap, self.prices = math.inf if cap is None else cap, prices or Prices()
        self.spent = 0.0
        self._held: list[float] = []
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def is_set(self) -> bool:
        """Whether there is a cap."""
        return self.cap < math.inf

    def affords(self, cost: float) -> bool:
        """Return whether a request of at most this cost may start, whatever requests in progress will cost."""
        return self.spent + math.fsum(self._held) + cost <= self.cap

    async def hold(self, cost: float) -> None:
        """Reserve `cost`; wait for other replies if that may help. Raises BudgetSpent if it cannot."""
        while not self.affords(cost):
            if not self._held:
                raise BudgetSpent(
                    f"the budget of {self.cap:g} does not allow another request: {self.spent:.4f} is spent, and the "
                    f"next may cost {cost:.4f}"
                )
            self._waiting.append(asyncio.get_running_loop().create_future())
            await self._waiting[-1]
        self._held.append(cost)

    def settle(self, held: float, spent: float) -> None:
        """Settle a request whose reply has arrived, or never will."""
        self._held.remove(held)
        self.spent += spent
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()
