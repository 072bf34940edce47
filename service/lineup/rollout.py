"""Leads the workers from one generation to the next: each loads it in its turn, and when all have, it is turned to at
once; or it is refused, and nothing changes. Works for the supervisor, whose one thread it shares.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from service.channel import Said
from service.lineup.follower import Proposal, Trouble
from service.lineup.plan import Plan
from service.metrics import Metrics
from service.worker_process import WorkerProcess

After = Callable[[float, Callable[[], None]], None]

_AGAIN_S = 0.05
_PATIENCE_S = 300.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_MOST_DEATHS = 2


@dataclass(eq=False)
class _UnderWay:
    """A generation on its way to be served: who loads it, and who died of it."""

    plan: Plan
    proposal: Proposal
    loading: WorkerProcess | None = None
    deaths: int = 0
    victim: int | None = None
    """The slot of the worker that died: its successor is to try again, before any other does."""
    is_halted: bool = False
    """Until that has started."""


class Rollout:
    """`workers` are those that live, by slot."""

    def __init__(self, first: Proposal, metrics: Metrics, workers: Mapping[int, WorkerProcess], after: After) -> None:
        self.plan = first.plan(1)
        """Of what is served, for a worker that starts."""
        # Not asked for anything: while it is kept, its files stay open for a worker that is replaced.
        self._served = first
        self._metrics = metrics
        self._workers = workers
        self._after = after
        self._newest = 1
        self._wanted: Proposal | Trouble = first
        self._next: Proposal | None = None
        self._under_way: _UnderWay | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._log = structlog.get_logger("msd.rollout")
        metrics.generation.set(1)

    def hear_of(self, found: Proposal | Trouble) -> None:
        """What the follower found."""
        self._wanted = found
        if isinstance(found, Trouble):
            self._next = None
            self._tell_refused(found.reason)
            return
        self._next, self._pause_s = found, _FIRST_PAUSE_S
        self._begin()

    def joined(self, worker: WorkerProcess) -> bool:
        """A worker has started; whether it serves what the others do."""
        if worker.generation != self.plan.generation:
            self._send(worker, self.plan)
            return False
        return True

    def admitted(self, worker: WorkerProcess) -> None:
        """It takes connections from now on."""
        under_way = self._under_way
        if under_way is None:
            self._begin()
        else:
            under_way.is_halted &= under_way.victim != worker.slot
            self._advance()

    def left(self, worker: WorkerProcess) -> None:
        """A worker has ended."""
        under_way = self._under_way
        if under_way is None:
            return
        if under_way.loading is not worker:
            # It may have been the last that was waited for.
            self._after(0.0, self._advance)
            return
        under_way.loading, under_way.victim, under_way.is_halted = None, worker.slot, True
        under_way.deaths += 1
        if under_way.deaths >= _MOST_DEATHS:
            self._refuse(f"{under_way.deaths} workers ended while they loaded it", is_final=True)

    def hear(self, worker: WorkerProcess, said: Said) -> bool:
        """A worker's word of what it was sent; whether it can take connections now that it could not take before."""
        under_way = self._under_way
        if said.what == "loaded":
            worker.generation = max(worker.generation, said.generation)
        if under_way is not None and said.generation == under_way.plan.generation:
            if under_way.loading is worker:
                under_way.loading = None
            if said.what == "loaded":
                self._advance()
            else:
                self._refuse(said.reason, is_final=not said.again)
            return False
        if worker.is_serving:
            return False
        if said.generation != self.plan.generation:
            self._send(worker, self.plan)
        elif said.what == "loaded":
            return True
        else:
            worker.reason = said.reason
            worker.kill()
        return False

    def _begin(self) -> None:
        proposal = self._next
        if self._under_way is not None or proposal is None:
            return
        self._next = None
        plan = proposal.plan(self._newest + 1)
        if plan.is_like(self.plan):
            self._served = proposal
            self._metrics.refused.set(0)
            return
        self._newest = plan.generation
        self._under_way = _UnderWay(plan, proposal)
        self._metrics.set_rolling(plan.generation)
        self._log.info("swap_begins", **_told(plan))
        self._advance()

    def _advance(self) -> None:
        """Has the next worker load what is under way; after the last, all turn to it."""
        under_way = self._under_way
        if under_way is None or under_way.loading is not None or under_way.is_halted:
            return
        serving = [worker for worker in self._workers.values() if worker.is_serving]
        serving.sort(key=lambda worker: worker.slot != under_way.victim)
        if not serving:
            return
        behind = next((worker for worker in serving if worker.generation < under_way.plan.generation), None)
        if behind is None:
            self._turn(under_way)
            return
        under_way.loading = behind
        self._send(behind, under_way.plan)
        # By their numbers: what it is would else be held for as long.
        generation, pid = under_way.plan.generation, behind.pid
        self._after(_PATIENCE_S, lambda: self._lose_patience(generation, pid))

    def _turn(self, under_way: _UnderWay) -> None:
        self.plan, self._served, self._under_way = under_way.plan, under_way.proposal, None
        self._metrics.generation.set(self.plan.generation)
        self._metrics.set_rolling(0)
        self._metrics.swaps["done"].inc()
        self._metrics.refused.set(isinstance(self._wanted, Trouble))
        self._log.info("swapped", **_told(self.plan))
        self._begin()

    def _refuse(self, reason: str, is_final: bool) -> None:
        under_way, self._under_way = self._under_way, None
        assert under_way is not None, "something is refused"
        self._metrics.set_rolling(0)
        if is_final:
            self._tell_refused(reason)
        else:
            self._metrics.swaps["postponed"].inc()
            self._metrics.refused.set(1)
            self._log.warning("swap_postponed", reason=reason, again_in=self._pause_s)
            self._after(self._pause_s, lambda: self._try_again(under_way.proposal))
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._begin()

    def _tell_refused(self, reason: str) -> None:
        self._metrics.swaps["refused"].inc()
        self._metrics.refused.set(1)
        self._log.error("bundle_refused", reason=reason)

    def _try_again(self, proposal: Proposal) -> None:
        if self._wanted is proposal and self._under_way is None:
            self._next = proposal
            self._begin()

    def _lose_patience(self, generation: int, pid: int) -> None:
        under_way = self._under_way
        if under_way is None or under_way.plan.generation != generation or under_way.loading is None:
            return
        if under_way.loading.pid == pid:
            self._refuse(f"worker {under_way.loading.slot} did not load it within {_PATIENCE_S:g} s", is_final=True)

    def _send(self, worker: WorkerProcess, plan: Plan) -> None:
        descriptor = plan.descriptor()
        try:
            was_sent = worker.channel.load(descriptor)
        except ConnectionError:  # it has ended, or is about to; its end will be heard of
            return
        finally:
            os.close(descriptor)
        if not was_sent:
            self._after(_AGAIN_S, lambda: self._send(worker, plan))


def _told(plan: Plan) -> dict[str, object]:
    return {
        "generation": plan.generation,
        "bundles": {arm.name: str(arm.model.origin) for arm in plan.arms},
    }
