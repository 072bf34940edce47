"""How long to wait before asking a server again. Knows no server and does not wait."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# A server that asks for more is told goodbye: the run can be started again.
LONGEST_WAIT = 600.0
_LONGEST_PAUSE = 60.0


def pause(attempt: int, base: float, asked: float | None = None) -> float:
    """Seconds before the attempt after the `attempt`-th (from 1): doubled each time, at most 60, and spread at random.

    Never less than the server asked for. The spread keeps many requests from coming back at the same moment.
    """
    doubled = min(base * 2.0 ** (attempt - 1), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)
    return doubled if asked is None else asked + doubled * 0.25


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that the header Retry-After asks for, given as a number or a date; None if it says nothing readable."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
