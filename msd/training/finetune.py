"""LoRA training of the student's top layers with the CTR loss, together with the ranker and its adaptors.

A step's rows share few items. Their texts are encoded with gradients; all other vectors come from a cache.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd.checkpoint import load_checkpoint, save_checkpoint
from msd.contract.rows import RowSide
from msd.dataset.split import Part
from msd.ranker.batch import Corruption, TrainedRanker, batch_loss
from msd.ranker.features import Features, SideFeatures
from msd.student.encoder import Student, save_student
from msd.student.lora import Lora
from msd.student.record import StudentError, Vectors
from msd.student.states import TextStates
from msd.student.vectors import LevelVectors, StudentVectors, save_vectors
from msd.training.parallel import ALONE, Team, TeamError
from msd.training.train import EpochReport, Judge, Progress, random_runs

_WARM_UP = 0.1  # share of all steps
Texts = Mapping[str, str]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class TuneConfig:
    """Tuning options. A step has up to `items` items with up to `rows_per_item` rows each, and encodes the texts of
    these items and of `users` of its users. An epoch visits every training row once, or ends after `steps` steps.
    `live`: as in TrainConfig."""

    seed: int = 0
    epochs: int = 1
    steps: int = 200
    rank: int = 8
    layers: int = 1
    items: int = 64
    rows_per_item: int = 8
    users: int = 4
    learning_rate: float = 1e-3
    ranker_learning_rate: float = 2e-5
    weight_decay: float = 1e-2
    corruption: Corruption = Corruption()
    live: bool = True

    def runs(self, runs: int) -> int:
        """Return the runs (rows of one item) per step: fewer on small data, so that an epoch has enough steps."""
        return min(self.items, max(8, runs // 64))


class Tuned(NamedTuple):
    """Calibrated ranker and the vectors of its student, both of the epoch with the best valid AUC.

    `epoch` 0 is before tuning: nothing was changed.
    """

    ranker: TrainedRanker
    items: LevelVectors
    users: LevelVectors
    epoch: int
    valid_auc: float
    valid_auc_before: float
    curve: list[EpochReport]


def finetune_ranker(
    trained: TrainedRanker,
    features: Features,
    student: Student,
    vectors: StudentVectors,
    texts: tuple[Texts, Texts],
    config: TuneConfig,
    checkpoint: Path,
    run: str,
    progress: Progress,
    team: Team = ALONE,
) -> Tuned:
    """Tune a copy of the ranker, and the student in place, which ends with the merged weights of the best epoch.

    `texts`: of items and of users, by ID; `vectors`: the student's vectors of them, as in `features`. If stopped and
    called again with the same `checkpoint` and `run`, it resumes after the last complete epoch and ends with the same
    result. Raises StudentError if a vector's text is missing.
    """
    torch.manual_seed(config.seed)
    student.to(features.labels.device)
    tuner = _Tuner(copy.deepcopy(trained), features, student, vectors, texts, config, team)
    tuner.resume(checkpoint, run)
    while len(tuner.curve) < config.epochs:
        epoch = len(tuner.curve) + 1
        tuner.end_epoch(EpochReport(epoch, tuner.train_epoch(epoch, progress), tuner.valid_auc()))
        if team.leads:
            tuner.save(checkpoint, run)
    return tuner.finish()


def save_own_student(folder: Path, student: Student, tuned: Tuned, config: TuneConfig) -> str:
    """Write a model's own student and its vectors into `folder`; return the student's fingerprint."""
    # The metrics of distillation do not hold for the tuned student.
    objective = {**student.record.objective, "tuned": asdict(config)}
    student.record = student.record.model_copy(update={"objective": objective, "metrics": {}})
    fingerprint = save_student(student, folder)
    save_vectors(StudentVectors(fingerprint, tuned.items, tuned.users), folder)
    return fingerprint


def require_texts(name: str, level: LevelVectors, texts: Mapping[str, str]) -> None:
    """Raise StudentError if a vector has no text; `name`: user or item."""
    if missing := [id_ for id_ in level.ids if id_ not in texts]:
        raise StudentError(
            f"the student has vectors of {len(missing)} {name}s without a text in the dataset, "
            f"such as {missing[0]!r}; distil again"
        )


class CachedTexts:
    """A side's texts as inputs of the student's trained layers, and the text of each of the side's rows.

    Raises StudentError if a vector has no text.
    """

    def __init__(
        self, side: SideFeatures, level: LevelVectors, texts: Mapping[str, str], student: Student, frozen: int
    ) -> None:
        require_texts(side.entities.side, level, texts)
        self.ids = level.ids
        self.states = TextStates(student, [texts[id_] for id_ in level.ids], frozen)
        self.text_of = np.array([level.rows.get(id_, -1) for id_ in side.entities.ids] + [-1], np.int64)

    def draw(self, rows: Rows, count: int, rng: np.random.Generator) -> Rows:
        """Draw up to `count` distinct rows of the side that have a text."""
        distinct = np.unique(rows)
        return rng.permutation(distinct[self.text_of[distinct] >= 0])[:count]

    def refreshed(self, side: SideFeatures, vectors: Vectors) -> SideFeatures:
        """Return the side's features with new vectors of all texts."""
        held = np.flatnonzero(self.text_of >= 0)
        fresh = side.vectors.clone()
        fresh[torch.from_numpy(held)] = torch.from_numpy(vectors[self.text_of[held]]).to(fresh.device)
        return replace(side, vectors=fresh)


class LiveVectors:
    """A side's vectors, some rows' freshly encoded: gradients reach the student only through these."""

    def __init__(self, side: SideFeatures, texts: CachedTexts, student: Student, rows: Rows) -> None:
        self._cache, self._rows = side.vectors, torch.from_numpy(rows).to(side.vectors.device)
        self._place = torch.full((len(self._cache),), -1, device=self._cache.device)
        self._place[self._rows] = torch.arange(len(rows), device=self._cache.device)
        self._fresh = texts.states.vectors(student, texts.text_of[rows]) if len(rows) else self._cache[:0]

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the vectors [n, V] of rows [n]."""
        place = self._place[rows.long()]
        at = torch.nonzero(place >= 0).squeeze(1)
        return self._cache[rows].index_put((at,), self._fresh[place[at]])

    def keep(self) -> None:
        """Write the fresh vectors into the cache."""
        self._cache[self._rows] = self._fresh.detach()


class _Tuner:
    """State of a tuning: trained weights, the best so far, and features with vectors of the current weights."""

    def __init__(
        self,
        model: TrainedRanker,
        features: Features,
        student: Student,
        vectors: StudentVectors,
        texts: tuple[Texts, Texts],
        config: TuneConfig,
        team: Team,
    ) -> None:
        self.model, self.student, self.config, self.team = model, student, config, team
        # A copy, because steps write vectors into the cache.
        item, user = (replace(side, vectors=side.vectors.clone()) for side in (features.item, features.user))
        self.features = replace(features, item=item, user=user)
        self.lora = Lora(student, config.rank, config.layers)
        self.items = CachedTexts(features.item, vectors.items, texts[0], student, self.lora.frozen)
        self.users = CachedTexts(features.user, vectors.users, texts[1], student, self.lora.frozen)
        self.weights = [*self.lora.weights.values(), *model.parameters()]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": list(self.lora.weights.values()), "weight_decay": 0.0},
                {"params": list(model.parameters()), "weight_decay": config.weight_decay},
            ]
        )
        self.before = self.valid_auc()
        self.best_epoch, self.best_auc = 0, self.before
        self.best = {"model": copy.deepcopy(model.state_dict()), "lora": self.lora.copy()}
        self.curve: list[EpochReport] = []

    def valid_auc(self) -> float:
        return self.team.mean(Judge(self.features, self.config.live).auc(self.model))

    def resume(self, checkpoint: Path, run: str) -> None:
        if found := load_checkpoint(checkpoint, run, self.optimiser):
            record = json.loads(found.record)
            self.curve = [EpochReport(*point) for point in record["curve"]]
            self.best_epoch, self.best_auc = record["best_epoch"], record["best_auc"]
            self.best = {"model": found.groups["best_model"], "lora": found.groups["best_lora"]}
            self.model.load_state_dict(found.groups["model"])
            self.lora.set(found.groups["lora"])
            self.refresh()
        if self.team.mean(len(self.curve)) != len(self.curve):
            raise TeamError(f"not all processes see the same {checkpoint}; give them a shared folder, or remove it")
        self.team.align(self.weights)

    def save(self, checkpoint: Path, run: str) -> None:
        record = {"curve": self.curve, "best_epoch": self.best_epoch, "best_auc": self.best_auc}
        groups = {
            "model": self.model.state_dict(),
            "lora": self.lora.copy(),
            "best_model": self.best["model"],
            "best_lora": self.best["lora"],
        }
        save_checkpoint(checkpoint, run, json.dumps(record), groups, self.optimiser)

    def refresh(self) -> tuple[Vectors, Vectors]:
        """Encode all texts with the current weights, and return the vectors of items and of users."""
        items, users = (texts.states.all_vectors(self.student) for texts in (self.items, self.users))
        self.features = replace(
            self.features,
            item=self.items.refreshed(self.features.item, items),
            user=self.users.refreshed(self.features.user, users),
        )
        return items, users

    def train_epoch(self, epoch: int, progress: Progress) -> float:
        """Train one epoch; return the mean loss of its steps."""
        config, team = self.config, self.team
        torch.manual_seed(config.seed * 1_000 + epoch + 1_000_000 * team.rank)
        rng = np.random.default_rng([config.seed, epoch])
        rows = self.features.of_part(Part.WINDOW, Part.TRAIN)
        runs = random_runs(self.features.item.rows.cpu().numpy()[rows], config.rows_per_item, rng)
        size = max(1, config.runs(len(runs)) // team.size)
        own = team.share(np.arange(len(runs)))
        rng = rng.spawn(team.size)[team.rank]
        steps = min(config.steps, -(-len(own) // size))
        losses = []
        for step in range(steps):
            share = (epoch - 1 + step / steps) / config.epochs
            events = rows[np.concatenate([runs[at] for at in own[step * size : (step + 1) * size]])]
            # The learning rates rise in the first tenth of all steps, then fall to 0.
            losses.append(self._step(events, min(1.0, share / _WARM_UP) * (1.0 - share), rng))
            progress(epoch, step + 1, losses[-1])
        self.refresh()
        return team.mean(float(np.mean(losses)))

    def _step(self, events: NDArray[np.int64], rate: float, rng: np.random.Generator) -> float:
        self.model.train()
        live = self._live(events, rng)
        loss = batch_loss(
            self.model, self.features, events, self.config.corruption, rng, lambda side, rows: live[side](rows)
        )
        lora, ranker = self.optimiser.param_groups
        lora["lr"], ranker["lr"] = rate * self.config.learning_rate, rate * self.config.ranker_learning_rate
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.team.average_gradients(self.weights)
        self.optimiser.step()
        for vectors in live.values():
            vectors.keep()
        return loss.item()

    def _live(self, events: NDArray[np.int64], rng: np.random.Generator) -> dict[RowSide, LiveVectors]:
        """Return vectors with gradients for the batch's items and some of its users: users' texts are longer."""
        features = self.features
        knowing = events[features.knows_user.cpu().numpy()[events]]
        items = self.items.draw(features.item.rows.cpu().numpy()[events], self.config.items, rng)
        users = self.users.draw(features.user.rows.cpu().numpy()[knowing], self.config.users, rng)
        return {
            "item": LiveVectors(features.item, self.items, self.student, items),
            "user": LiveVectors(features.user, self.users, self.student, users),
        }

    def end_epoch(self, report: EpochReport) -> None:
        self.curve.append(report)
        if report.valid_auc > self.best_auc:
            self.best_epoch, self.best_auc = report.epoch, report.valid_auc
            self.best = {"model": copy.deepcopy(self.model.state_dict()), "lora": self.lora.copy()}

    def finish(self) -> Tuned:
        """Restore the best epoch, merge LoRA, encode all texts with the final weights and calibrate."""
        self.model.load_state_dict(self.best["model"])
        self.lora.set(self.best["lora"])
        self.lora.merge()
        items, users = self.refresh()
        if self.best_epoch:
            Judge(self.features, self.config.live).calibrate(self.model)
        self.student.cpu()
        levels = (LevelVectors(self.items.ids, items), LevelVectors(self.users.ids, users))
        return Tuned(self.model.eval(), *levels, self.best_epoch, self.best_auc, self.before, self.curve)
