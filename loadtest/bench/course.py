"""Runs services against each other: a round of each in turn, so that what else the machine does slows all alike."""

from collections.abc import Mapping

from loadtest.arrivals import Arrivals, poisson
from loadtest.bench.bundles import Heard
from loadtest.generator import Limits, Target, closed_loop, open_loop
from loadtest.http_client import ClientError
from loadtest.outcome import Outcome

Targets = Mapping[str, Target]
Outcomes = dict[str, Outcome]
_WARM_UP_S = 0.3


class Course:
    """Tells how much of all is over, by the seconds that were planned."""

    def __init__(self, heard: Heard, total_seconds: float) -> None:
        self._heard, self._total, self._over = heard, total_seconds, 0.0

    def closed(self, doing: str, targets: Targets, clients: int, seconds: float, rounds: int) -> Outcomes:
        """A few clients that send when they have their reply. Raises ClientError when one scores nothing."""
        outcomes: Outcomes = {}
        for _ in range(rounds):
            for name, target in targets.items():
                self._tell(doing, seconds)
                if name not in outcomes:
                    closed_loop(target, clients, min(_WARM_UP_S, seconds / 4))
                _add(outcomes, name, closed_loop(target, clients, seconds))
        return outcomes

    def open(
        self, doing: str, target: Target, rate: float, seconds: float, arrivals: Arrivals = poisson, seed: int = 0
    ) -> Outcome:
        """Arrivals at a rate, whatever the service does. Raises ClientError when it scores nothing."""
        self._tell(doing, seconds)
        outcomes: Outcomes = {}
        _add(outcomes, target.url, open_loop(target, arrivals(rate, seconds, seed), seconds, Limits()))
        return outcomes[target.url]

    @property
    def so_far(self) -> tuple[int, int]:
        """Seconds over, of all."""
        return round(self._over), round(self._total)

    def _tell(self, doing: str, seconds: float) -> None:
        self._heard(doing, *self.so_far)
        self._over += seconds


def _add(outcomes: Outcomes, name: str, outcome: Outcome) -> None:
    if not outcome.statuses[200]:
        told = ", ".join(f"{count} with {status}" for status, count in sorted(outcome.statuses.items()))
        raise ClientError(f"{name}: no request was scored; of {outcome.offered}, {told or 'none was answered'}")
    if name in outcomes:
        outcomes[name].add(outcome)
    else:
        outcomes[name] = outcome
