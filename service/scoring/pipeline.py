"""What requests are scored with, what is fetched for those that lack something, and what followers learn of them.

The native core reads, fills, runs and replies without Python's lock (`native/engine/scoring_job.hpp`). Knows no HTTP.
"""

import time
from collections.abc import Sequence
from functools import partial
from weakref import WeakKeyDictionary

from msd.contract.correction import HEAD, Correction, LearnedCorrection
from native import core
from native.layout import AskedRequest, choice_of, columns_of, core_corrections, fetched_rows
from service.scoring.answer import Basis, Explained, Follower, Seen, Served, Translate
from service.scoring.deployment import Arm, Deployment
from service.scoring.frames import Frame, Frames
from service.scoring.model import Corrections, Model

_DENSE = {"user_dense", "item_dense", "context_dense"}


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
        self._lines: WeakKeyDictionary[Model, tuple[LearnedCorrection, list[core.Correction]]] = WeakKeyDictionary()

    def plan(self, deployment: Deployment, is_aside: bool = False) -> "core.Plan":
        """Return with what requests are scored, for the core. `is_aside`: it serves no users, so that nothing follows
        it."""
        arm = deployment.arms[0]
        rows = arm.model.native.rows
        changes = deployment.is_split or self._corrections is not None or rows is None or rows.epochs is not None
        return core.Plan(
            of=deployment,
            model=arm.model.native.loaded,
            assign=partial(self._assigned, deployment) if changes else self._assignment(deployment, arm),
            is_by_user=deployment.is_split,
            wants=partial(self._wants, deployment) if self._followers_of(deployment) and not is_aside else None,
            look=partial(self._look, deployment),
            translate=None if self._translate is None or is_aside else partial(self._translate, deployment),
        )

    def follow(self, seen: Seen) -> None:
        """Let followers learn of a request that is answered."""
        for follower in self._followers_of(seen.deployment):
            follower.follow(seen.deployment, seen.served)

    async def provide(self, job: "core.AwayJob") -> None:
        """Fetch what a job lacks, and let it go on. Raises nothing for a failing store, which degrades the scores."""
        arm: Arm = job.assignment.of
        given = await self._frames.fetch(arm.model, AskedRequest.of(job.asked), job.deadline)
        user, items = fetched_rows(given.user), fetched_rows(given.items)
        job.go_on(core.Fetched(user=user, items=items, live=given.states, at=given.at, seconds=given.seconds, of=given))

    def _followers_of(self, deployment: Deployment) -> Sequence[Follower]:
        if self._shadowing is None or not deployment.shadows:
            return self._followers
        return (self._shadowing, *self._followers)

    def _assignment(self, deployment: Deployment, arm: Arm) -> "core.Assignment":
        model, live = arm.model, self._frames.live
        rows = model.native.rows
        correction = self._corrections.value.get(model.bundle.bundle_id) if self._corrections else None
        return core.Assignment(
            model=model.native.loaded,
            arm=arm.name if deployment.is_split else None,
            slot=arm.slot if deployment.is_split else 0,
            epochs=None if rows is None or rows.epochs is None else rows.epochs(),
            live=None if live is None else partial(live.cached, model.schema),
            reads_texts=self._frames.reads_texts(model),
            corrections=() if correction is None else self._lines_of(model, correction),
            of=arm,
        )

    def _lines_of(self, model: Model, correction: LearnedCorrection) -> "list[core.Correction]":
        """Return a model's correction for the core, made once."""
        known, lines = self._lines.get(model, (None, []))
        if known is not correction:
            lines = core_corrections(correction.lines_for(model.schema))
            self._lines[model] = correction, lines
        return lines

    # In a scoring thread

    def _assigned(self, deployment: Deployment, user_id: str, request_id: str) -> "core.Assignment":
        # The request's ID assigns anonymous users to arms.
        return self._assignment(deployment, deployment.arm_of(user_id or request_id))

    def _wants(self, deployment: Deployment, request_id: str) -> bool:
        wants = any([follower.wants(deployment, request_id) for follower in self._followers_of(deployment)])
        if not wants:
            self.follow(Seen(deployment))
        return wants

    def _look(self, deployment: Deployment, part: "core.ScoredPart") -> Seen:
        """Return what is to be known of a scored request before its frame is another's."""
        frame, found, arm = Frame(part.frame, part.tensors), part.frame, part.assignment.of
        explained = self._to_explain(frame, part.ran, arm.model) if part.is_explained else None
        if not part.is_followed:
            return Seen(deployment, None, explained)
        user, items = frame.kept(arm.model, part.fetched)
        served = Served(
            part.request_id,
            time.time(),
            arm.name,
            arm.share,
            arm is deployment.arms[0],
            arm.model,
            part.body,
            Basis(found.at, user, frame.of_request(items), part.ran, part.ran < found.count, part.is_shared),
            columns_of(found),
            found.rungs,
            found.user_rung,
            None if found.correction is None else Correction.of(found.correction),
            choice_of(found),
            frame.copied(_DENSE & part.tensors.keys()),
            (part.parse_s, part.rows_s, part.queue_s, part.run_s, time.perf_counter() - part.began),
        )
        return Seen(deployment, served, explained)

    def _to_explain(self, frame: Frame, ran: int, model: Model) -> Explained:
        """Return what an explanation starts from."""
        found = frame.core
        correction = None if found.correction is None else Correction.of(found.correction)
        tensors, pctr, shown, order = frame.copied(), columns_of(found)[HEAD], found.shown, found.order
        return Explained(
            model, tensors, self._frames.unknown(model, found.at), pctr, correction, shown, order, ran < found.count
        )
