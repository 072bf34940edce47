"""A client for the scoring service: typed, bounded by deadlines, in a blocking and an asynchronous form.

Needs httpx and nothing else of this project. `Client` and `AsyncClient` differ in who waits; what is said, read and
tried again is decided in one place for both.
"""

from msd_client.async_client import AsyncClient
from msd_client.client import Client
from msd_client.errors import (
    AccessDenied,
    BadReply,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    InvalidSettings,
    MsdClientError,
    Overloaded,
    ServiceFailed,
    Unavailable,
)
from msd_client.replies import EventsReply, Model, Ready, ScoredCandidate, ScoreReply
from msd_client.requests import Event, Item, ScoreRequest
from msd_client.retry import Retry

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "BadReply",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Event",
    "EventsReply",
    "InvalidRequest",
    "InvalidSettings",
    "Item",
    "Model",
    "MsdClientError",
    "Overloaded",
    "Ready",
    "Retry",
    "ScoreReply",
    "ScoreRequest",
    "ScoredCandidate",
    "ServiceFailed",
    "Unavailable",
]
