"""What requests are scored with, what is fetched for those that lack something, and what followers learn of them.

The native core reads, fills, runs and replies without Python's lock (`native/engine/scoring_job.hpp`). Knows no HTTP.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import native
from msd.contract.correction import HEAD, Correction, LearnedCorrection, Line
from msd.contract.tensors import Tensors
from native.layout import AskedRequest, given_rows
from service.scoring.answer import Basis, Explained, Follower, Seen, Served, Translate
from service.scoring.deployment import Arm, Deployment
from service.scoring.frames import Frame, Frames, Given
from service.scoring.model import Corrections, Model

_DENSE = {"user_dense", "item_dense", "context_dense"}
Taken = tuple[float, float, float, float]
"""Seconds of parse, rows, queue and run."""


class Assignment(NamedTuple):
    """With what a request is scored, for the core."""

    model: Any
    """The arm's, in the core's form."""
    name: str | None
    """The arm's, if there are several."""
    slot: int
    """The arm's, if there are several, or 0."""
    epochs: Sequence[int] | None
    """The current ones, if rows are in arenas."""
    live: Callable[[str | None, Sequence[str]], object] | None
    reads_texts: bool
    """Whether texts of ads without a row are encoded."""
    corrections: Sequence[Line]
    arm: Arm
    """This is for Python, to which the core returns the assignment."""


class Pipeline:
    """Scores requests, each with the model of its user's arm. For the event loop."""

    def __init__(
        self,
        frames: Frames,
        corrections: Corrections | None = None,
        followers: Sequence[Follower] = (),
        shadowing: Follower | None = None,
        translate: Translate | None = None,
    ) -> None:
        """`shadowing` follows deployments that have shadows. `translate`: None if there are no other forms."""
        self._frames = frames
        self._corrections = corrections
        self._followers = followers
        self._shadowing = shadowing
        self._translate = translate
        self._lines: WeakKeyDictionary[Model, tuple[LearnedCorrection, list[Line]]] = WeakKeyDictionary()

    def plan(self, deployment: Deployment, is_aside: bool = False) -> Any:  # noqa: ANN401 - the core has no types
        """Return with what requests are scored, for the core: the deployment; the model that reads them; an assignment,
        or what returns one; whether that needs the user; what says whether a request is followed, if some may be; what
        is called with what is to be known of a scored one; and what translates requests of other forms. `is_aside`: it
        serves no users, so that nothing follows it."""
        assert native.core is not None, "there is an engine"
        arm = deployment.arms[0]
        rows = arm.model.native.rows
        changes = deployment.is_split or self._corrections is not None or rows is None or rows.epochs is not None
        return native.core.Plan(
            deployment,
            arm.model.native.loaded,
            partial(self._assigned, deployment) if changes else self._assignment(deployment, arm),
            deployment.is_split,
            partial(self._wants, deployment) if self._followers_of(deployment) and not is_aside else None,
            partial(self._look, deployment),
            None if self._translate is None or is_aside else partial(self._translate, deployment),
        )

    def follow(self, seen: Seen) -> None:
        """Let followers learn of a request that is answered."""
        for follower in self._followers_of(seen.deployment):
            follower.follow(seen.deployment, seen.served)

    async def provide(self, job: Any, assignment: Assignment, asked: tuple[Any, ...], deadline: float) -> None:  # noqa: ANN401
        """Fetch what a job lacks, and let it go on. Raises nothing for a failing store, which degrades the scores."""
        given = await self._frames.fetch(assignment.arm.model, AskedRequest.of(asked), deadline)
        job.go_on((*given_rows(given.user, given.items), given.states, given.at, given.seconds, given))

    def _followers_of(self, deployment: Deployment) -> Sequence[Follower]:
        if self._shadowing is None or not deployment.shadows:
            return self._followers
        return (self._shadowing, *self._followers)

    def _assignment(self, deployment: Deployment, arm: Arm) -> Assignment:
        model, live = arm.model, self._frames.live
        rows = model.native.rows
        correction = self._corrections.value.get(model.bundle.bundle_id) if self._corrections else None
        return Assignment(
            model.native.loaded,
            arm.name if deployment.is_split else None,
            arm.slot if deployment.is_split else 0,
            None if rows is None or rows.epochs is None else rows.epochs(),
            None if live is None else partial(live.cached, model.schema),
            self._frames.reads_texts(model),
            () if correction is None else self._lines_of(model, correction),
            arm,
        )

    def _lines_of(self, model: Model, correction: LearnedCorrection) -> list[Line]:
        """Return a model's correction for the core, made once."""
        known, lines = self._lines.get(model, (None, []))
        if known is not correction:
            lines = correction.lines_for(model.schema)
            self._lines[model] = correction, lines
        return lines

    # In a scoring thread

    def _assigned(self, deployment: Deployment, user_id: str, request_id: str) -> Assignment:
        # The request's ID assigns anonymous users to arms.
        return self._assignment(deployment, deployment.arm_of(user_id or request_id))

    def _wants(self, deployment: Deployment, request_id: str) -> bool:
        wants = any([follower.wants(deployment, request_id) for follower in self._followers_of(deployment)])
        if not wants:
            self.follow(Seen(deployment))
        return wants

    def _look(
        self,
        deployment: Deployment,
        core: Any,  # noqa: ANN401
        tensors: Tensors,
        run: tuple[int, bool],
        taken: Taken,
        assignment: Assignment,
        request_id: str,
        body: bytes,
        began: float,
        given: Given | None,
        is_followed: bool,
        is_explained: bool,
    ) -> Seen:
        """Return what is to be known of a scored request before its frame is another's. `run`: how many of its first
        candidates were in the run, and whether other requests' were too."""
        frame, arm = Frame(core, tensors), assignment.arm
        ran, is_shared = run
        explained = self._to_explain(frame, ran, assignment) if is_explained else None
        if not is_followed:
            return Seen(deployment, None, explained)
        user, items = frame.kept(arm.model, given)
        served = Served(
            request_id,
            time.time(),
            arm.name,
            arm.share,
            arm is deployment.arms[0],
            arm.model,
            body,
            Basis(core.at, user, frame.of_request(items), ran, ran < core.count, is_shared),
            frame.columns,
            core.rungs,
            core.user_rung,
            None if core.correction is None else Correction.of(core.correction),
            frame.choice,
            frame.copied(_DENSE & tensors.keys()),
            (*taken, time.perf_counter() - began),
        )
        return Seen(deployment, served, explained)

    def _to_explain(self, frame: Frame, ran: int, assignment: Assignment) -> Explained:
        """Return what an explanation starts from."""
        core, model = frame.core, assignment.arm.model
        correction = None if core.correction is None else Correction.of(core.correction)
        tensors, pctr, shown, order = frame.copied(), frame.columns[HEAD], core.shown, core.order
        return Explained(
            model, tensors, self._frames.unknown(model, core.at), pctr, correction, shown, order, ran < core.count
        )
