"""Client of the scoring service: typed, bounded by deadlines, blocking or asynchronous.

Needs only httpx. `Client` and `AsyncClient` differ in how they wait; requests, replies and retries are shared.
"""

from msd_client.client import AsyncClient, Client
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
from msd_client.options import Retry
from msd_client.replies import EventsReply, ItemsReply, Model, OpenrtbReply, Ready, ScoredCandidate, ScoreReply
from msd_client.requests import Candidates, CatalogueItem, Event, Item, OpenrtbRequest, ScoreRequest

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "BadReply",
    "Candidates",
    "CatalogueItem",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Event",
    "EventsReply",
    "InvalidRequest",
    "InvalidSettings",
    "Item",
    "ItemsReply",
    "Model",
    "MsdClientError",
    "OpenrtbReply",
    "OpenrtbRequest",
    "Overloaded",
    "Ready",
    "Retry",
    "ScoreReply",
    "ScoreRequest",
    "ScoredCandidate",
    "ServiceFailed",
    "Unavailable",
]
