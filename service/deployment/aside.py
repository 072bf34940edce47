"""Work beside requests: one step at a time, in a thread of its own, each followed by a rest in which they catch up.

The thread has the priority of those that serve: one that has less, and Python's lock, keeps them waiting for as long as
it waits itself. Does not know what the steps do.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

_LONGEST_S = 0.5


class Aside:
    """Steps until the block's end, which waits for none. A rest is `rest` times as long as the step had a core, and no
    longer than half a second; `sleep` is how it is spent."""

    def __init__(self, name: str, rest: float, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._rest = rest
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def do(self, step: Callable[_Given, _Result], *given: _Given.args, **named: _Given.kwargs) -> _Result:
        """What the step gives, after the rest. Raises what it raises."""
        result, seconds = await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: _timed(lambda: step(*given, **named))
        )
        if self._rest:
            await self._sleep(min(_LONGEST_S, self._rest * seconds))
        return result


def _timed(step: Callable[[], _Result]) -> tuple[_Result, float]:
    started = time.thread_time()
    result = step()
    return result, time.thread_time() - started
