"""Retries: when a call is repeated, and after how long. Knows no HTTP beyond an error's fields."""

import random
from dataclasses import dataclass

from msd_client.errors import ConnectionFailed, InvalidSettings, MsdClientError, Overloaded, Unavailable

# Larger exponents would overflow a float.
_MOST_DOUBLINGS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """At most `attempts` in total; `first_s` is the longest wait before the second, and doubles up to `most_s`.

    Failed connections, and refusals with Retry-After, are retried: repeating is safe, because scoring is read-only and
    events have IDs. A missed deadline is never retried: there is no time left.
    """

    attempts: int = 3
    first_s: float = 0.02
    most_s: float = 1.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.first_s <= self.most_s:
            raise InvalidSettings("a retry has at least one attempt, and waits of 0 <= first_s <= most_s")

    def wait_s(self, error: MsdClientError, attempt: int) -> float | None:
        """Return the wait after a failed attempt (from 1); None if it is not retried."""
        if attempt >= self.attempts:
            return None
        # Random up to the bound, so that clients that failed together do not return together.
        jitter: float = random.uniform(0, min(self.most_s, self.first_s * 2.0 ** min(attempt - 1, _MOST_DOUBLINGS)))
        if isinstance(error, ConnectionFailed):
            return jitter
        if isinstance(error, Overloaded | Unavailable) and error.retry_after_s is not None:
            return error.retry_after_s + jitter
        return None
