"""Training of the student to predict from raw text what the teacher wrote. Knows texts and knowledge, not datasets or
clicks.

The search trains on 90 % of the lessons; the others decide its early stopping and measure it. From its best weights,
passes over all lessons (stage "catalogue") make every vector contain what was written about its text. Between the two,
a rehearsal makes the same passes without the held-out lessons: its weights show what the student makes of texts that it
was not taught. At the end of each stage, the words head memorises its lessons on top of the fixed encoder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from msd.checkpoint import load_checkpoint, save_checkpoint
from msd.student.encoder import Student
from msd.student.lessons import Advance, Lessons, Rows
from msd.student.progress import Epoch, Figures, Progress, Stage, measure
from msd.student.record import HEADS, Vectors
from msd.student.states import TextStates

_WINDOW = 4  # batches
CHECKPOINT_FILE = "checkpoint.safetensors"
_SAID = {"search": "searching", "rehearsal": "rehearsing", "catalogue": "learning the catalogue"}


@dataclass(frozen=True)
class DistillConfig:
    """Options of training.

    `layers`: number of the encoder's layers to keep, all by default.
    `limit`: maximum number of taught items, and of users, those with the most impressions; all others are only encoded.
    `items_every`, `users_every`: an epoch uses every n-th of a level's lessons, because long texts are expensive.
    """

    layers: int | None = None
    epochs: int = 8
    seed: int = 0
    limit: int = 4_000
    holdout: float = 0.1
    patience: int = 1
    frozen_layers: int = 5
    batch_size: int = 64
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    temperature: float = 0.05
    cosine_weight: float = 10.0
    words_passes: int = 30
    words_learning_rate: float = 2e-3
    items_every: int = 1
    users_every: int = 3


@dataclass(frozen=True)
class Course:
    """A level's lessons, their targets [k, 896] and the cached states of their texts."""

    lessons: Lessons
    targets: Vectors
    states: TextStates


class Distiller:
    """A training run over courses; `run` resumes from the checkpoint in `folder`, if it has the same `name`."""

    def __init__(self, student: Student, courses: list[Course], config: DistillConfig, folder: Path, name: str) -> None:
        self.student, self.courses, self.config = student, courses, config
        self.path, self.name = folder / CHECKPOINT_FILE, name
        taught = [head for head, part in HEADS.items() if any(course.targets[:, part].any() for course in courses)]
        self.weights = _trainable(student, config.frozen_layers, taught)
        self.optimiser = self._new_optimiser()
        # Weights at the end of the rehearsal.
        self.untaught: dict[str, Tensor] = {}
        found = load_checkpoint(self.path, self.name, self.optimiser)
        if found is None:
            self.progress = Progress(best_loss=self._held_out_loss(), figures=self._figures("plain", self._pooled()))
            self.best = self._copy()
        else:
            self.progress = Progress.model_validate_json(found.record)
            self._set_weights(found.groups["weights"])
            self.best, self.untaught = found.groups["best"], found.groups.get("untaught", {})

    def run(self, advance: Advance) -> Progress:
        """Train to the end, in place, and return the measurements. `advance` gets each epoch with its losses."""
        while self.progress.stage != "done":
            epoch = self.progress.epoch + 1
            lessons = [np.flatnonzero(~c.lessons.held | (self.progress.stage == "catalogue")) for c in self.courses]
            loss = self._epoch(epoch, lessons)
            held_out = self._held_out_loss() if self.progress.stage == "search" else None
            done = Epoch(stage=self.progress.stage, epoch=epoch, loss=loss, held_out_loss=held_out)
            self._advance_progress(done, advance)
            groups = {"weights": self.weights, "best": self.best, "untaught": self.untaught}
            save_checkpoint(self.path, self.name, self.progress.model_dump_json(), groups, self.optimiser)
            note = f"loss {loss:.3f}" + ("" if held_out is None else f", held out {held_out:.3f}")
            stage = _SAID[done.stage]
            over = self.progress.stage != done.stage
            advance(stage, epoch, epoch if over else self.config.epochs, note)
        return self.progress

    def _pooled(self) -> list[Tensor]:
        """Return the heads' inputs for each course's texts, with the current weights."""
        return [course.states.all_pooled(self.student) for course in self.courses]

    def _end(self, stage: str, advance: Advance) -> dict[str, Figures]:
        """Let the words head memorise its lessons; return the figures of the finished stage."""
        pooled = self._pooled()
        self._learn_words(stage, pooled, advance)
        return self._figures(stage, pooled)

    def _learn_words(self, stage: str, pooled: list[Tensor], advance: Advance) -> None:
        """Train the words head alone, on pooled states. It takes seconds, so it has no checkpoint."""
        part, passes, head = HEADS["words"], self.config.words_passes, self.student.words
        lessons = [
            (states, torch.from_numpy(course.targets[:, part]))
            for states, course in zip(pooled, self.courses, strict=True)
        ]
        said = [
            np.flatnonzero(course.targets[:, part].any(axis=1) & (~course.lessons.held | (stage == "catalogue")))
            for course in self.courses
        ]
        optimiser = torch.optim.AdamW(head.parameters(), weight_decay=self.config.weight_decay)
        for done in range(passes):
            rng = np.random.default_rng([self.config.seed, done])
            for group in optimiser.param_groups:
                group["lr"] = self.config.words_learning_rate * _schedule((done + 0.5) / passes)
            for (states, targets), rows in zip(lessons, said, strict=True):
                for which in self._split(rng.permutation(rows)) if len(rows) else ():
                    loss = head_loss(head(states[which]), targets[which], self.config)
                    optimiser.zero_grad()
                    torch.autograd.backward(loss)
                    optimiser.step()
            advance(f"learning the words by heart ({stage})", done + 1, passes, "")

    def _set_weights(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.weights.items():
                value.copy_(weights[name])

    def _advance_progress(self, done: Epoch, advance: Advance) -> None:
        progress = self.progress
        progress = progress.model_copy(update={"epoch": done.epoch, "history": (*progress.history, done)})
        if done.held_out_loss is not None and done.held_out_loss < progress.best_loss:
            self.best = self._copy()
            progress = progress.model_copy(update={"best_epoch": done.epoch, "best_loss": done.held_out_loss})
        last = done.epoch == self.config.epochs
        if done.stage == "search" and (last or done.epoch - progress.best_epoch >= self.config.patience):
            self._set_weights(self.best)
            figures = self._end("search", advance)
            # Start of the passes over the catalogue, after the rehearsal.
            self.best = self._copy()
            progress = self._begin("rehearsal", progress, figures)
        elif done.stage == "rehearsal" and last:
            figures = self._end("rehearsal", advance)
            self.untaught = self._copy()
            self._set_weights(self.best)
            progress = self._begin("catalogue", progress, figures)
        elif done.stage == "catalogue" and last:
            figures = self._end("catalogue", advance)
            progress = progress.model_copy(update={"stage": "done", "figures": {**progress.figures, **figures}})
        self.progress = progress

    def _begin(self, stage: Stage, progress: Progress, figures: dict[str, Figures]) -> Progress:
        """Begin a stage with a new optimiser; return its progress, with the figures of the stage before."""
        self.optimiser = self._new_optimiser()
        figures = {**progress.figures, **figures}
        return progress.model_copy(update={"stage": stage, "epoch": 0, "figures": figures})

    @torch.no_grad()
    def _figures(self, stage: str, pooled: list[Tensor]) -> dict[str, Figures]:
        figures = {}
        for course, states in zip(self.courses, pooled, strict=True):
            vectors, held = self.student.heads(states).numpy(), course.lessons.held
            for part, which in (("held_out", held), ("training", ~held)):
                name = f"{course.lessons.level}/{part}/{stage}"
                figures[name] = measure(vectors, course.targets, np.flatnonzero(which))
        return figures

    def _epoch(self, epoch: int, lessons: list[Rows]) -> float:
        """Train one epoch; return the mean loss."""
        batches = list(self._batches(epoch, lessons))
        total = 0.0
        for at, (course, which) in enumerate(batches):
            rate = self.config.learning_rate * _schedule((epoch - 1 + at / len(batches)) / self.config.epochs)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            loss = self._loss(course, which)
            self.optimiser.zero_grad()
            torch.autograd.backward(loss)
            self.optimiser.step()
            total += loss.item()
        return total / len(batches)

    def _batches(self, epoch: int, lessons: list[Rows]) -> Iterator[tuple[Course, Rows]]:
        """Return batches of one level each, in random order; they depend only on seed, stage and epoch, so that a rerun
        can resume."""
        stage = ("search", "catalogue", "rehearsal").index(self.progress.stage)
        batches = []
        for number, (course, rows) in enumerate(zip(self.courses, lessons, strict=True)):
            every = self.config.items_every if course.lessons.level == "items" else self.config.users_every
            turn, part = divmod(epoch - 1, every)
            order = np.random.default_rng([self.config.seed, stage, number, turn]).permutation(rows)
            seen = _alike(np.array_split(order, every)[part], course, _WINDOW * self.config.batch_size)
            batches += [(course, which) for which in self._split(seen) if len(which)]
        mixed = np.random.default_rng([self.config.seed, stage, len(self.courses), epoch]).permutation(len(batches))
        return (batches[at] for at in mixed)

    def _split(self, rows: Rows) -> list[Rows]:
        return np.array_split(rows, max(1, round(len(rows) / self.config.batch_size)))

    def _held_out_loss(self) -> float:
        with torch.no_grad():
            levels = [
                np.mean(
                    [self._loss(course, which).item() for which in self._split(np.flatnonzero(course.lessons.held))]
                )
                for course in self.courses
                if course.lessons.held.any()
            ]
            return float(np.mean(levels))

    def _loss(self, course: Course, which: Rows) -> Tensor:
        vectors, targets = course.states.vectors(self.student, which), torch.from_numpy(course.targets[which])
        losses = []
        for part in (HEADS[head] for head in ("explicit", "implicit")):
            said = targets[:, part].any(dim=1)
            if said.any():
                losses.append(head_loss(vectors[said, part], targets[said, part], self.config))
        return torch.stack(losses).sum()

    def _new_optimiser(self) -> torch.optim.Optimizer:
        # All heads except the words head, which is trained separately: its gradients would harm the others.
        weights = [value for name, value in self.weights.items() if not name.startswith("words.")]
        return torch.optim.AdamW(weights, weight_decay=self.config.weight_decay)

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.weights.items()}


def head_loss(vectors_BD: Tensor, targets_BD: Tensor, config: DistillConfig) -> Tensor:
    """Return cosine regression plus InfoNCE in both directions within the batch; rows of both are unit vectors."""
    logits_BB = vectors_BD @ targets_BD.T / config.temperature
    own = torch.arange(len(vectors_BD))
    contrast = nn.functional.cross_entropy(logits_BB, own) + nn.functional.cross_entropy(logits_BB.T, own)
    return config.cosine_weight * (1.0 - (vectors_BD * targets_BD).sum(dim=1)).mean() + 0.5 * contrast


def objective(config: DistillConfig) -> dict[str, object]:
    """Return the record in student.json of how the student was trained."""
    return {
        "loss": "cosine regression + in-batch InfoNCE, per head",
        "targets": {
            "explicit": "plain MiniLM of the teacher's facts and tags",
            "implicit": "plain MiniLM of the teacher's reasons",
            "words": "TF-IDF of all the teacher's words, reduced to 128 by SVD, fitted on the items",
        },
        **asdict(config),
    }


def _alike(rows: Rows, course: Course, window: int) -> Rows:
    """Return the same lessons, sorted by length within each window, to reduce padding."""
    lengths = course.states.lengths
    windows = [rows[at : at + window] for at in range(0, len(rows), window)]
    return (
        np.concatenate([window[np.argsort(lengths[window], kind="stable")] for window in windows]) if windows else rows
    )


def _trainable(student: Student, frozen_layers: int, heads: Sequence[str]) -> dict[str, Tensor]:
    """Return the weights above the frozen layers and of some heads; freeze all others."""
    student.requires_grad_(False)
    above = (f"encoder.bert.encoder.layer.{n}." for n in range(frozen_layers, student.encoder.depth))
    prefixes = (*above, *(f"{head}." for head in heads))
    trainable: dict[str, Tensor] = {
        name: value for name, value in student.named_parameters() if name.startswith(prefixes)
    }
    for value in trainable.values():
        value.requires_grad_(True)
    return trainable


def _schedule(done: float) -> float:
    """Return the learning rate's factor after a share `done` of all epochs: up in the first 5 %, then down to 10 %."""
    return min(1.0, done / 0.05) * (1.0 - 0.9 * done)
