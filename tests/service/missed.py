"""Tests of what is seen only while requests are at work: where the machine stood still for longer than these take, a
test came too late, and is begun again."""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import httpx

from tests.service.live import wait_until

_TRIES = 10


class Missed(Exception):
    """Requests had ended before they were seen at work."""


def again_if_missed(test: Callable[..., None]) -> Callable[..., None]:
    """A test that is begun again when it came too late to see what it is about."""

    @functools.wraps(test)
    def tried(*arguments: object, **more: object) -> None:
        for _ in range(_TRIES - 1):
            try:
                return test(*arguments, **more)
            except Missed:
                continue
        return test(*arguments, **more)

    return tried


def wait_to_see(is_so: Callable[[], bool], sent: Sequence["Future[httpx.Response]"]) -> None:
    """Until it is so. Raises Missed when one of the requests that were sent has ended before."""

    def is_seen() -> bool:
        ended = any(one.done() for one in sent)
        if is_so():
            return True
        if ended:
            raise Missed
        return False

    wait_until(is_seen)
