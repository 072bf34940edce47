"""Predictions of every variant of a benchmark for the test rows, seed by seed, stored on disk.

A stopped run resumes; results of other data or settings are made again.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lab.benchmark.cold import hide_items
from lab.benchmark.predictions import MeasuredRows, Predictions, keep, kept, rows_of, valid_auc
from lab.benchmark.protocol import FORMAT, Folders, Progress, Protocol, write_knowledge
from lab.benchmark.variant import ENCODED, Given, Variant
from lab.benchmark.vectors import NOBODY, VectorSources, with_vectors
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

_STUDENT = "student"
_UNTAUGHT = "untaught"


@dataclass(frozen=True)
class Results:
    """`rows`: the test rows by seed. `found`: by variant, the predictions of each of its seeds. `taught`: the record of
    the knowledge."""

    rows: Mapping[int, MeasuredRows]
    found: Mapping[str, Mapping[int, Predictions]]
    taught: TeachRecord


def run_benchmark(protocol: Protocol, data: Path, work: Path, seeds: Sequence[int], progress: Progress) -> Results:
    """Prepare the data, distil the student, and train all variants that `work` does not have yet."""
    runner = BenchmarkRunner(protocol, data, work, progress)
    due = [
        (variant, seed)
        for seed in seeds
        for variant in protocol.variants
        if variant.role != "ablation" or seed in seeds[: protocol.ablation_seeds]
    ]
    found: dict[str, dict[int, Predictions]] = {variant.name: {} for variant in protocol.variants}
    for number, (variant, seed) in enumerate(due, start=1):
        runner.part = f"{number} of {len(due)}, {variant.name}, seed {seed}"
        found[variant.name][seed] = runner.predictions(variant, seed)
    return Results({seed: rows_of(runner.of_seed(seed)) for seed in seeds}, found, runner.taught)


class BenchmarkRunner:
    """One benchmark's data and student, and the predictions of each variant and seed."""

    def __init__(self, protocol: Protocol, data: Path, work: Path, progress: Progress) -> None:
        self._protocol, self._work, self._report = protocol, work, progress
        self.part = "preparing"
        self._folders = folders = protocol.prepare(data, work, progress)
        self._dataset, self._knowledge = load_dataset(folders.dataset), load_knowledge(folders.knowledge)
        self.taught = load_record(folders.knowledge)
        student = self._distilled(folders, work / _STUDENT)
        self._sources = VectorSources(
            self._dataset, self._knowledge, student, self._progress, users=protocol.user_vectors
        )
        self._seed, self._of_seed = -1, self._dataset
        # Of the latest seed's dataset, by whether the schema has vectors.
        self._features: dict[bool, Features] = {}

    def _progress(self, doing: str, done: int, total: int, note: str = "") -> None:
        self._report(f"{self.part}: {doing}", done, total)

    def _distilled(self, folders: Folders, student: Path) -> Path:
        """Distil a student unless its folder is complete, and return the folder."""
        distill(*folders, student, self._protocol.distilling, self._progress)
        return student

    def of_seed(self, seed: int) -> Dataset:
        """Return the dataset of a seed; the latest is cached."""
        hidden = self._protocol.hidden
        if hidden is not None and seed != self._seed:
            self._seed, self._of_seed = seed, hide_items(self._dataset, seed, hidden)
            self._features.clear()
        return self._of_seed

    def predictions(self, variant: Variant, seed: int) -> Predictions:
        """Return the variant's predictions, as stored, or else made and stored now."""
        path = self._work / "predictions" / f"{variant.name}-{seed}.npz"
        run = self._fingerprint(variant, seed)
        found = kept(path, run)
        if found is None:
            found = self._fitted(variant, seed) if variant.fitted else self._trained(variant, seed)
            keep(path, run, found)
        return found

    def _fingerprint(self, variant: Variant, seed: int) -> str:
        """Return a hash of everything that the variant's predictions depend on."""
        dataset = self.of_seed(seed).fingerprint
        if variant.fitted:
            return fingerprint_of(FORMAT, dataset, self._sources.knowledge, variant.name, seed)
        protocol = self._protocol
        settings = variant.config(protocol.ranker).model_dump(), asdict(replace(protocol.training, seed=seed))
        made_of = [variant.source, *self._sources.made_of] if variant.source else None
        return fingerprint_of(FORMAT, RANKER_FORMAT, dataset, *settings, made_of, variant.textless)

    def _fitted(self, variant: Variant, seed: int) -> Predictions:
        assert variant.fitted
        dataset, views = self.of_seed(seed), self._views(seed, semantics=False)
        start = time.perf_counter()
        features = views[0]
        events = features.of_part(Part.VALID, Part.TEST)
        found = [variant.fitted(Given(dataset, self._knowledge, view, seed), events) for view in views]
        seconds = time.perf_counter() - start
        is_test = features.parts[events] == Part.TEST
        valid, test, live = found[0][~is_test], found[0][is_test], found[-1][is_test]
        return Predictions(valid, test, live, valid_auc(dataset, valid), seconds)

    def _trained(self, variant: Variant, seed: int) -> Predictions:
        vectors = self._vectors(variant, seed)
        views = self._views(seed, semantics=vectors is not None)
        if vectors:
            views = [with_vectors(view, vectors) for view in views]
        trained = self._network(variant, seed, views[0])
        start = time.perf_counter()
        if variant.textless and vectors:
            scored = self._without_test_items(vectors, seed)
            views = [with_vectors(view, scored) for view in views]
        valid = predict(trained.model, views[0], views[0].of_part(Part.VALID))
        test, live = (predict(trained.model, view, view.of_part(Part.TEST)) for view in (views[0], views[-1]))
        seconds = float(trained.record.training["seconds"]) + time.perf_counter() - start
        return Predictions(valid, test, live, valid_auc(self.of_seed(seed), valid), seconds)

    def _vectors(self, variant: Variant, seed: int) -> StudentVectors | None:
        if variant.source != "untaught":
            return self._sources.of(variant.source) if variant.source else None
        folder, taught = self._work / _UNTAUGHT, set(self.of_seed(seed).events.filter(part="train")["item_id"])
        base = KnowledgeBase({id_: known for id_, known in self._knowledge.items.items() if id_ in taught}, {})
        knowledge = write_knowledge(folder / f"knowledge-{seed}", base, self.taught)
        student = self._distilled(Folders(self._folders.dataset, knowledge), folder / f"student-{seed}")
        return replace(load_vectors(student), users=NOBODY)

    def _without_test_items(self, vectors: StudentVectors, seed: int) -> StudentVectors:
        hidden = set(self.of_seed(seed).events.filter(part="test")["item_id"])
        places = [place for place, id_ in enumerate(vectors.items.ids) if id_ not in hidden]
        seen = LevelVectors([vectors.items.ids[place] for place in places], vectors.items.vectors[places])
        return replace(vectors, items=seen)

    def _network(self, variant: Variant, seed: int, features: Features) -> TrainedNetwork:
        """Return the variant's trained network."""
        protocol = self._protocol
        if variant.textless:
            return self._network(replace(variant, name=ENCODED, textless=False), seed, features)
        config, training = variant.config(protocol.ranker), replace(protocol.training, seed=seed)
        inputs = NetworkInputs(self.of_seed(seed).fingerprint, self._sources.student.student, features)
        steps = training.steps(len(features.of_part(Part.WINDOW, Part.TRAIN)))

        def show(epoch: int, step: int, loss: float) -> None:
            self._progress(f"epoch {epoch}, loss {loss:.3f}", step, steps)

        folder = self._work / "models" / f"{variant.name}-{seed}"
        return train_network(folder, self._fingerprint(variant, seed), inputs, config, training, show)

    def _views(self, seed: int, *, semantics: bool) -> list[Features]:
        """Return the features of a seed's rows, with the student's vectors or without: with counts at the end of train
        and, if all seeds share the rows, with live ones."""
        dataset = self.of_seed(seed)
        if semantics not in self._features:
            self._progress("reading the events", 0, 1)
            schema = fit_schema(dataset, semantics=semantics)
            self._features[semantics] = build_features(dataset, schema, self._sources.student)
        features = self._features[semantics]
        return [features] if self._protocol.hidden is not None else [features, features.live()]
