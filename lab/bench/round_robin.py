"""Runs services in turns, one round each, so that other work on the machine affects all alike."""

from collections.abc import Mapping

from loadtest.arrivals import poisson
from loadtest.generator import Target, closed_loop, open_loop
from loadtest.http_client import ClientError
from loadtest.outcome import Outcome, Rounds
from msd.report import Heard

Targets = Mapping[str, Target]
_WARM_UP_S = 0.3


class RoundRobin:
    """Reports progress by the planned seconds."""

    def __init__(self, heard: Heard, total_seconds: float) -> None:
        self._heard, self._total, self._over = heard, total_seconds, 0.0

    def closed(
        self, doing: str, targets: Targets, clients: int | Mapping[str, int], seconds: float, rounds: int
    ) -> dict[str, Rounds]:
        """Run a closed loop of a few clients. Raises ClientError if one gets no score."""
        many = dict.fromkeys(targets, clients) if isinstance(clients, int) else clients
        found: dict[str, list[Outcome]] = {name: [] for name in targets}
        for _ in range(rounds):
            for name, target in targets.items():
                self._tell(doing, seconds)
                if not found[name]:
                    closed_loop(target, many[name], min(_WARM_UP_S, seconds / 4))
                found[name].append(_scored(name, closed_loop(target, many[name], seconds)))
        return {name: Rounds(tuple(outcomes)) for name, outcomes in found.items()}

    def open(self, doing: str, target: Target, rate: float, seconds: float, seed: int) -> Outcome:
        """Run an open loop of Poisson arrivals. Raises ClientError if nothing is scored."""
        self._tell(doing, seconds)
        return _scored(target.url, open_loop(target, poisson(rate, seconds, seed), seconds))

    @property
    def so_far(self) -> tuple[int, int]:
        """Return elapsed and total seconds."""
        return round(self._over), round(self._total)

    def _tell(self, doing: str, seconds: float) -> None:
        self._heard(doing, *self.so_far)
        self._over += seconds


def _scored(name: str, outcome: Outcome) -> Outcome:
    if not outcome.statuses[200]:
        told = ", ".join(f"{count} with {status}" for status, count in sorted(outcome.statuses.items()))
        raise ClientError(f"{name}: no request was scored; of {outcome.offered}, {told or 'none was answered'}")
    return outcome
