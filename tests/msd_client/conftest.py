"""The blocking and the asynchronous client behind one form, so that each test holds for both."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from msd_client import AsyncClient, Client

Ask = Callable[..., Any]
"""Makes a client of an address and options, calls a method of it so often, and gives back the last result."""


def ask_blocking(url: str, method: str, *arguments: object, options: Any = None, times: int = 1, **more: Any) -> Any:  # noqa: ANN401
    """By `Client`."""
    with Client(url, **(options or {})) as client:
        return [getattr(client, method)(*arguments, **more) for _ in range(times)][-1]


def ask_async(url: str, method: str, *arguments: object, options: Any = None, times: int = 1, **more: Any) -> Any:  # noqa: ANN401
    """By `AsyncClient`."""

    async def asked() -> Any:  # noqa: ANN401
        async with AsyncClient(url, **(options or {})) as client:
            return [await getattr(client, method)(*arguments, **more) for _ in range(times)][-1]

    return asyncio.run(asked())


@pytest.fixture(params=[ask_blocking, ask_async], ids=["blocking", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Either client."""
    chosen: Ask = request.param
    return chosen
