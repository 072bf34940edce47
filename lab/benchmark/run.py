"""Predictions of every variant of a benchmark for the valid and test rows, by delay and seed, stored on disk.

A stopped run resumes; results of other data or settings are made again.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from lab.benchmark.cold import hide_items
from lab.benchmark.given import Floats, Given
from lab.benchmark.predictions import MeasuredRows, Predictions, keep, kept, rows_of
from lab.benchmark.protocol import FORMAT, Folders, Progress, Protocol, write_knowledge
from lab.benchmark.variant import BASELINES_FORMAT, ENCODED, Variant
from lab.benchmark.vectors import NOBODY, NOTHING, VectorSources, with_vectors
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.split import Part
from msd.ranker.features import Features, build_features
from msd.ranker.schema_fit import fit_schema
from msd.step import fingerprint_of
from msd.student.step import distill
from msd.student.vectors import LevelVectors, StudentVectors, load_vectors
from msd.teachers.knowledge import KnowledgeBase, TeachRecord, load_knowledge, load_record
from msd.training.folder import FORMAT as RANKER_FORMAT
from msd.training.folder import NetworkInputs, TrainedNetwork, train_network
from msd.training.train import predict

FROZEN, LIVE, CLOSED = "frozen", "live", "closed"
_STUDENT = "student"
_UNTAUGHT = "untaught"


@dataclass(frozen=True)
class Scope:
    """What to run of a protocol: seeds, delays, variants (all if there are no names), and the part to measure."""

    seeds: Sequence[int]
    delays_s: Sequence[int]
    names: Sequence[str] = ()
    part: Part = Part.VALID


@dataclass(frozen=True)
class Results:
    """`rows`: the measured rows by seed. `found`: by variant, seed and view, their click probabilities. `seconds` of
    each variant, by run. `taught`: the record of the knowledge.

    A view is `frozen` (counts of the end of train, no delay), `closed` (histories of then, too), or `live_600_s` (live
    counts, with that delay).
    """

    rows: Mapping[int, MeasuredRows]
    found: Mapping[str, Mapping[int, Mapping[str, Floats]]]
    seconds: Mapping[str, Sequence[float]]
    taught: TeachRecord


def run_benchmark(protocol: Protocol, data: Path, work: Path, scope: Scope, progress: Progress) -> Results:
    """Prepare the data, distil the student, and train all variants of the scope that `work` does not have yet."""
    runner = BenchmarkRunner(protocol, data, work, progress)
    variants = [variant for variant in protocol.variants if not scope.names or variant.name in scope.names]
    due = [
        (delay_s, seed, variant)
        for delay_s in scope.delays_s
        for seed in scope.seeds
        for variant in variants
        if variant.role != "ablation" or seed in scope.seeds[: protocol.ablation_seeds]
    ]
    rows = {seed: rows_of(runner.of_seed(seed), scope.part) for seed in scope.seeds}
    found: dict[str, dict[int, dict[str, Floats]]] = {variant.name: defaultdict(dict) for variant in variants}
    seconds = defaultdict[str, list[float]](list)
    for number, (delay_s, seed, variant) in enumerate(due, start=1):
        runner.part = f"{number} of {len(due)}, {variant.name}, seed {seed}, delay {delay_s} s"
        made = runner.predictions(variant, seed, delay_s)
        for view, probabilities in made.by_view.items():
            name = f"{LIVE}_{delay_s}_s" if view == LIVE else view
            found[variant.name][seed][name] = probabilities[rows[seed].among]
        seconds[variant.name].append(made.seconds)
    return Results(rows, found, seconds, runner.taught)


class BenchmarkRunner:
    """One benchmark's data and student, and the predictions of each variant, seed and delay."""

    def __init__(self, protocol: Protocol, data: Path, work: Path, progress: Progress) -> None:
        self._protocol, self._work, self._report = protocol, work, progress
        self.part = "preparing"
        self._folders = folders = protocol.prepare(data, work, progress)
        self._dataset, self._knowledge = load_dataset(folders.dataset), load_knowledge(folders.knowledge)
        self.taught = load_record(folders.knowledge)
        self._sources = VectorSources(
            self._dataset,
            self._knowledge,
            lambda: self._distilled(folders, work / _STUDENT),
            self._progress,
            users=protocol.user_vectors,
        )
        self.of_seed = lru_cache(maxsize=1)(self._drawn)
        # With and without a place for vectors, closed or not.
        self._walked = lru_cache(maxsize=4)(self._walk)

    def _progress(self, doing: str, done: int, total: int) -> None:
        self._report(f"{self.part}: {doing}", done, total)

    def _distilled(self, folders: Folders, student: Path) -> Path:
        """Distil a student unless its folder is complete, and return the folder."""
        distill(*folders, student, self._protocol.distilling, self._progress)
        return student

    def _drawn(self, seed: int) -> Dataset:
        """Return the dataset of a seed."""
        hidden = self._protocol.hidden
        return self._dataset if hidden is None else hide_items(self._dataset, seed, hidden)

    def predictions(self, variant: Variant, seed: int, delay_s: int) -> Predictions:
        """Return the variant's predictions, as stored, or else made and stored now."""
        path = self._work / "predictions" / f"{_name(variant, seed, delay_s)}.npz"
        # Models do not depend on the views.
        run = fingerprint_of(self._fingerprint(variant, seed, delay_s), self._view_names(delay_s))
        found = kept(path, run)
        if found is None:
            make = self._fitted if variant.fitted else self._trained
            found = make(variant, seed, delay_s)
            keep(path, run, found)
        return found

    def _fingerprint(self, variant: Variant, seed: int, delay_s: int) -> str:
        """Return a hash of everything that the variant's predictions depend on."""
        inputs = FORMAT, RANKER_FORMAT, self.of_seed(seed).fingerprint, delay_s
        made_of = self._sources.made_of(variant.source) if variant.source else None
        if variant.fitted:
            return fingerprint_of(*inputs, made_of, self._sources.knowledge, variant.name, seed)
        protocol = self._protocol
        config = variant.config(protocol.ranker)
        settings = config.model_dump(), asdict(replace(protocol.training, seed=seed))
        code = [] if config.network == "msd" else [BASELINES_FORMAT]
        return fingerprint_of(*inputs, made_of, *settings, variant.textless, *code)

    def _fitted(self, variant: Variant, seed: int, delay_s: int) -> Predictions:
        assert variant.fitted
        views = self._views(seed, delay_s, self._vectors(variant, seed))
        start = time.perf_counter()
        by_view = {}
        for name, features in views.items():
            given = Given(self.of_seed(seed), self._knowledge, features, seed)
            by_view[name] = variant.fitted(given, features.of_part(Part.VALID, Part.TEST))
        return Predictions(by_view, time.perf_counter() - start)

    def _trained(self, variant: Variant, seed: int, delay_s: int) -> Predictions:
        vectors = self._vectors(variant, seed)
        features = self._features(seed, delay_s, vectors)
        trained = self._network(variant, seed, delay_s, features, vectors)
        start = time.perf_counter()
        if variant.textless and vectors:
            vectors = self._without_hidden_items(vectors, seed)
        events = features.of_part(Part.VALID, Part.TEST)
        views = self._views(seed, delay_s, vectors)
        by_view = {name: predict(trained.model, view, events) for name, view in views.items()}
        return Predictions(by_view, float(trained.record.training["seconds"]) + time.perf_counter() - start)

    def _vectors(self, variant: Variant, seed: int) -> StudentVectors | None:
        if variant.source != "untaught":
            return self._sources.of(variant.source) if variant.source else None
        folder, taught = self._work / _UNTAUGHT, set(self.of_seed(seed).events.filter(part="train")["item_id"])
        base = KnowledgeBase({id_: known for id_, known in self._knowledge.items.items() if id_ in taught}, {})
        knowledge = write_knowledge(folder / f"knowledge-{seed}", base, self.taught)
        student = self._distilled(Folders(self._folders.dataset, knowledge), folder / f"student-{seed}")
        return replace(load_vectors(student), users=NOBODY)

    def _without_hidden_items(self, vectors: StudentVectors, seed: int) -> StudentVectors:
        shown = set(self.of_seed(seed).events.filter(part="train")["item_id"])
        places = [place for place, id_ in enumerate(vectors.items.ids) if id_ in shown]
        seen = LevelVectors([vectors.items.ids[place] for place in places], vectors.items.vectors[places])
        return replace(vectors, items=seen)

    def _network(
        self, variant: Variant, seed: int, delay_s: int, features: Features, vectors: StudentVectors | None
    ) -> TrainedNetwork:
        """Return the variant's trained network."""
        protocol = self._protocol
        if variant.textless:
            return self._network(replace(variant, name=ENCODED, textless=False), seed, delay_s, features, vectors)
        config, training = variant.config(protocol.ranker), replace(protocol.training, seed=seed)
        inputs = NetworkInputs(self.of_seed(seed).fingerprint, vectors.student if vectors else "", features)
        steps = training.steps(len(features.of_part(Part.WINDOW, Part.TRAIN)))

        def show(epoch: int, step: int, loss: float) -> None:
            self._progress(f"epoch {epoch}, loss {loss:.3f}", step, steps)

        folder = self._work / "models" / _name(variant, seed, delay_s)
        return train_network(folder, self._fingerprint(variant, seed, delay_s), inputs, config, training, show)

    def _features(self, seed: int, delay_s: int, vectors: StudentVectors | None, closed: bool = False) -> Features:
        features = self._walked(0 if self._protocol.hidden is None else seed, delay_s, vectors is not None, closed)
        return with_vectors(features, vectors) if vectors else features

    def _walk(self, seed: int, delay_s: int, semantics: bool, closed: bool) -> Features:
        self._progress("reading the events", 0, 1)
        dataset = self.of_seed(seed)
        return build_features(dataset, fit_schema(dataset, semantics=semantics), NOTHING, delay_s, closed=closed)

    def _view_names(self, delay_s: int) -> list[str]:
        """Return the views of a delay: with counts of the end of train, unless feedback is delayed; if all seeds share
        the rows, also with live counts, and with histories of the end of train."""
        if self._protocol.hidden is not None:
            return [] if delay_s else [FROZEN]
        return [LIVE] if delay_s else [FROZEN, LIVE, CLOSED]

    def _views(self, seed: int, delay_s: int, vectors: StudentVectors | None) -> dict[str, Features]:
        open_ = self._features(seed, delay_s, vectors)
        found = {}
        for name in self._view_names(delay_s):
            view = self._features(seed, delay_s, vectors, closed=True) if name == CLOSED else open_
            found[name] = view.live() if name == LIVE else view
        return found


def _name(variant: Variant, seed: int, delay_s: int) -> str:
    return f"{variant.name}-{seed}-{delay_s}"
