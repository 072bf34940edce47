"""When a call is tried again, and after how long. Knows no HTTP beyond what an error says."""

import random
from dataclasses import dataclass

from msd_client.errors import ConnectionFailed, InvalidSettings, MsdClientError, Overloaded, Unavailable

# More would be more than a float can say.
_MOST_DOUBLINGS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """At most `attempts` in all; `first_s` is the longest wait before the second, which doubles up to `most_s`.

    Tried again is what failed before it could have had an effect, or has none when it comes twice: scoring reads, and
    events have ids. So a connection that failed, and refusals that say when to come again. Never is what was too late:
    there is no time left for it.
    """

    attempts: int = 3
    first_s: float = 0.02
    most_s: float = 1.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.first_s <= self.most_s:
            raise InvalidSettings("a retry has at least one attempt, and waits of 0 <= first_s <= most_s")

    def wait_s(self, error: MsdClientError, attempt: int) -> float | None:
        """How long to wait after the attempt of this number, from 1, failed; None when it was the last."""
        if attempt >= self.attempts:
            return None
        # Anything up to the bound, so that those who failed together do not come back together.
        jitter: float = random.uniform(0, min(self.most_s, self.first_s * 2.0 ** min(attempt - 1, _MOST_DOUBLINGS)))
        if isinstance(error, ConnectionFailed):
            return jitter
        if isinstance(error, Overloaded | Unavailable) and error.retry_after_s is not None:
            return error.retry_after_s + jitter
        return None
