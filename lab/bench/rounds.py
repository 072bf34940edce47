"""Runs services in turns, one round each, so that other work on the machine affects all alike."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

from loadtest.generator import Target, closed_loop, open_loop
from loadtest.http_client import ClientError
from loadtest.outcome import Durations, Outcome
from loadtest.traffic import poisson

_WARM_UP_S = 0.3


class Rounds(NamedTuple):
    """Runs of one kind, in order."""

    outcomes: tuple[Outcome, ...]

    @property
    def latency(self) -> Durations:
        """The latencies of all runs."""
        whole = Durations()
        for outcome in self.outcomes:
            whole.add(outcome.latency)
        return whole

    def median(self, of: Callable[[Outcome], float]) -> float:
        """Return a figure's median over the runs, because a few may have been disturbed."""
        return median(map(of, self.outcomes))

    def ratio(self, other: "Rounds", of: Callable[[Outcome], float]) -> float:
        """Return the median ratio of a figure to that of another's run in the same round."""
        return median(of(run) / of(rival) for run, rival in zip(self.outcomes, other.outcomes, strict=True))


def goodput(outcome: Outcome) -> float:
    """Requests per second that were scored within a run."""
    return outcome.goodput


def p50_ms(outcome: Outcome) -> float:
    """The median latency."""
    return outcome.latency.percentile_ms(50)


def closed_rounds(targets: Mapping[str, Target], clients: int, seconds: float, rounds: int) -> dict[str, Rounds]:
    """Run closed loops of a few clients in turns. Raises ClientError if a service scores nothing."""
    found: dict[str, list[Outcome]] = {name: [] for name in targets}
    for _ in range(rounds):
        for name, target in targets.items():
            if not found[name]:
                closed_loop(target, clients, min(_WARM_UP_S, seconds / 4))
            found[name].append(_scored(name, closed_loop(target, clients, seconds)))
    return {name: Rounds(tuple(outcomes)) for name, outcomes in found.items()}


def poisson_run(target: Target, rate: float, seconds: float, seed: int) -> Outcome:
    """Run an open loop of Poisson arrivals. Raises ClientError if nothing is scored."""
    return _scored(target.url, open_loop(target, poisson(rate, seconds, seed), seconds))


def _scored(name: str, outcome: Outcome) -> Outcome:
    if not outcome.statuses[200]:
        replies = ", ".join(f"{count} with {status}" for status, count in sorted(outcome.statuses.items()))
        raise ClientError(f"{name}: no request was scored; of {outcome.offered}, {replies or 'none was answered'}")
    return outcome
