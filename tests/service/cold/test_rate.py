"""A bounded flow: at the bound, portions go together."""

import asyncio

from service.cold.encoding import Rate

_PER_S = 10_000.0


def test_what_is_there_goes_at_once_and_at_the_bound_a_fifth_of_a_second_goes_together() -> None:
    async def run() -> list[int]:
        rate = Rate(_PER_S)
        return [await rate.take(1), await rate.take(20_000), await rate.take(20_000)]

    first, rest, together = asyncio.run(run())
    assert first == 1
    assert 1 <= rest <= _PER_S
    assert _PER_S / 5 <= together <= _PER_S


def test_nobody_gets_more_than_is_wanted_or_less_than_one() -> None:
    async def run(per_s: float) -> tuple[int, int]:
        rate = Rate(per_s)
        await rate.take(1_000)
        return await rate.take(2), await rate.take(3)

    for per_s in (50.0, 4.0):
        second, third = asyncio.run(run(per_s))
        assert 1 <= second <= 2
        assert 1 <= third <= 3
