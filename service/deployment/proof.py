"""Proves a loaded model, and the code that serves it, before it serves: warms the model up, and reproduces the bundle's
goldens from a request's bytes to its reply's. Runs in a background thread, with a rest after each step.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from msd.contract.bundle import GOLDENS
from msd.contract.correction import HEAD, LearnedCorrection, Line
from msd.contract.errors import BundleError
from msd.contract.golden import Golden, read_goldens
from msd.contract.pricing import served_places
from msd.contract.request import MAX_POSITION
from msd.contract.segments import KNOWN, UNKNOWN_USERS, slot_name
from service.deployment.golden_request import GoldenReply, GoldenRequest
from service.runtimes.choice import expected_candidates
from service.runtimes.runtime import Scores
from service.scoring.model import Model

_LONGEST_S = 0.5
# Relative differences: of two runs with the same tensors; of what is made of the same scores.
_ROUNDING, _EXACT = 1e-5, 1e-9
_OF_ALL_SEGMENTS = 0.25


class Stopped(Exception):
    """The work was cancelled."""


class Pace:
    """Pace of background work: a rest after each step, so that requests catch up. For one thread.

    The thread keeps the serving threads' priority: with a lower one it would hold Python's lock while it waits for a
    core. The model's runs, which need no lock, have a lower one. A rest is `rest` times as long as the step took by the
    clock, because a runtime may compute in its own threads; half a second at most.
    """

    def __init__(self, rest: float = 0.0, sleep: Callable[[float], object] | None = None) -> None:
        """`sleep` waits for a rest; by default until it is over or `stop` is called."""
        self._rest = rest
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._since = time.perf_counter()

    def begin(self) -> None:
        """Begin a step; the time before it was waiting."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """End a step, and rest. Raises Stopped after `stop`."""
        if seconds := min(_LONGEST_S, self._rest * (time.perf_counter() - self._since)):
            self._sleep(seconds)
        self.check()
        self.begin()

    def check(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    def stop(self) -> None:
        """End the work at its next pause. For any thread."""
        self._stopped.set()

    def sleep(self, seconds: float) -> bool:
        """Wait for that time, or until `stop`; return whether to continue."""
        return not self._stopped.wait(seconds)


def prove(model: Model, max_candidates: int, pace: Pace) -> None:
    """Raise BundleError if a golden is not reproduced, or nothing would prove prices and live events; or whatever the
    model raises."""
    key = model.engine.key
    tolerance = model.bundle.manifest.tolerances.get(key)
    if tolerance is None:
        known = ", ".join(model.bundle.manifest.tolerances) or "none"
        raise BundleError(f"the manifest has no tolerance for {key!r}; it has: {known}")
    pace.begin()
    path = model.bundle.path(GOLDENS)
    goldens = list(read_goldens(path))
    pace.pause()
    if not goldens:
        raise BundleError(f"{path}: holds no goldens to verify the model with")
    # A runtime may have a graph for the expected number.
    has_bids, count = False, expected_candidates(model.bundle, max_candidates)
    for number, golden in enumerate(goldens, start=1):
        try:
            if number == 1:
                _warm_up(model, golden, max_candidates, pace)
            request = GoldenRequest(model, golden, count)
            _prove_one(request, golden, _Tolerance(tolerance, key), count, pace)
        except BundleError as error:
            raise BundleError(f"golden {number} {error}") from error
        has_bids |= request.has_bids
    for what, is_there in (("bid", has_bids), ("live event", any(golden.events for golden in goldens))):
        if not is_there:
            raise BundleError(f"{path}: holds no golden with a {what}, to verify the service with; export it again")


def _warm_up(model: Model, golden: Golden, max_candidates: int, pace: Pace) -> None:
    for size in model.runtime.warm_up_sizes(max_candidates):
        GoldenRequest(model, golden, size).score(is_padded=True)
        pace.pause()


class _Tolerance(NamedTuple):
    most: float
    how: str


def _prove_one(request: GoldenRequest, golden: Golden, tolerance: _Tolerance, count: int, pace: Pace) -> None:
    """Prove one golden: as it is; corrected and ranked; and among `count` candidates, if that is not 0."""
    plain = request.score()
    pace.pause()
    _check_scores(golden, plain.scores, tolerance)
    _check_ecpm(request, plain)
    correction = _correction_of(request)
    _check_ranked(
        request, plain, correction, request.score(correction.lines_for(request.schema), top_k=len(request.ids))
    )
    pace.pause()
    if request.first_slot < MAX_POSITION:
        _check_page(request, correction.lines_for(request.schema), tolerance)
        pace.pause()
    if count:
        padded = request.score(is_padded=True)
        pace.pause()
        own = {head: column[: len(request.ids)] for head, column in padded.scores.items()}
        _check_scores(golden, own, tolerance._replace(how=f"{count} candidates"))


def _check_scores(golden: Golden, found: Scores, tolerance: _Tolerance) -> None:
    difference = _greatest_difference(golden, found)
    if not difference <= tolerance.most:
        raise BundleError(
            f"differs by {difference:.3g} from its expected score (at most {tolerance.most:.3g} for {tolerance.how})"
        )


def _check_ecpm(request: GoldenRequest, reply: GoldenReply) -> None:
    """Raise BundleError unless the eCPM is that of the reply's own scores."""
    due = request.ecpm(reply.scores)
    if reply.ids != request.ids or not np.allclose(reply.ecpm, due, rtol=_EXACT, atol=0.0, equal_nan=True):
        raise BundleError(f"has the eCPM {reply.ecpm.tolist()}, but its bids and scores give {due.tolist()}")


def _correction_of(request: GoldenRequest) -> LearnedCorrection:
    """Return a correction that moves a request by each of its segments, and would by others."""
    own = dict.fromkeys(request.segments, _OF_ALL_SEGMENTS / len(request.segments))
    others = dict.fromkeys((KNOWN, UNKNOWN_USERS, slot_name(MAX_POSITION)), -0.5)
    sold = LearnedCorrection(centre=-1.0, shift=-0.25, segments=own, at=0.0, impressions=0, clicks=0)
    return LearnedCorrection(
        centre=-2.0,
        shift=0.25,
        slope=1.125,
        segments=others | own,
        at=0.0,
        impressions=0,
        clicks=0,
        conversions=sold,
    )


def _check_ranked(
    request: GoldenRequest, plain: GoldenReply, correction: LearnedCorrection, ranked: GoldenReply
) -> None:
    """Raise BundleError unless a reply is the plain one, corrected and in order."""
    scores = correction.within(request.segments).correct(plain.scores)
    due = _by_id(GoldenReply(plain.ids, scores, request.ecpm(scores)))
    found = _by_id(ranked)
    is_same = [row[0] for row in found] == [row[0] for row in due] and np.allclose(
        [row[1:] for row in found], [row[1:] for row in due], rtol=_ROUNDING, atol=1e-9, equal_nan=True
    )
    if not is_same:
        raise BundleError(f"is {found} under a correction of calibration, but {due} is due (ID, eCPM, scores)")
    order = served_places(ranked.ecpm, ranked.scores[HEAD], len(ranked.ids)).tolist()
    if order != sorted(order):
        raise BundleError(f"is not ranked: the eCPM of its candidates is {ranked.ecpm.tolist()}")


def _check_page(request: GoldenRequest, lines: Sequence[Line], tolerance: _Tolerance) -> None:
    """Raise BundleError unless the places of a page have the best candidates, with their scores for these places."""
    page = request.score(lines, slot=request.first_slot, page=2)
    there = [request.score(lines, slot=request.first_slot + place) for place in range(2)]
    order = served_places(there[0].ecpm, there[0].scores[HEAD], len(page.ids)).tolist()
    due = [(reply.ids[candidate], *_row(reply, candidate)) for reply, candidate in zip(there, order, strict=False)]
    found = [(item_id, *_row(page, place)) for place, item_id in enumerate(page.ids)]
    scores, there_scores = (np.array([row[2:] for row in rows], np.float64) for rows in (found, due))
    is_same = [row[0] for row in found] == [row[0] for row in due]
    if not is_same or not np.allclose(scores, there_scores, rtol=0.0, atol=2 * tolerance.most):
        raise BundleError(f"has the page {found}, but {due} is due at these places (ID, eCPM, scores)")


def _row(reply: GoldenReply, place: int) -> tuple[float, ...]:
    return float(reply.ecpm[place]), *(float(column[place]) for column in reply.scores.values())


def _by_id(reply: GoldenReply) -> list[tuple[Any, ...]]:
    """Return a reply's candidates: ID, eCPM, scores; in an order that is not the reply's."""
    ecpm: list[float] = np.nan_to_num(reply.ecpm, nan=-1.0).tolist()
    return sorted(zip(reply.ids, ecpm, *(column.tolist() for column in reply.scores.values()), strict=True))


def _greatest_difference(golden: Golden, scores: Scores) -> float:
    """Return the largest difference: infinite if a head has no expected scores, or not one per candidate; NaN if a
    score is."""
    differences = []
    for head, column in scores.items():
        expected = golden.expected.get(head, [])
        if len(expected) != len(column):
            return float("inf")
        differences.append(np.max(np.abs(column - np.array(expected))))
    return float(np.max(differences))
