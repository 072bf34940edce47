"""Predictions of every variant of a benchmark for the test rows, seed by seed, stored on disk.

A stopped run resumes; results of other data or settings are made again.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple
from typing import Protocol as Interface

import numpy as np
import polars as pl

from lab.benchmark.predictions import Predictions, TestRows, keep, kept, rows_of, valid_auc
from lab.benchmark.protocol import FORMAT, Folders, Protocol, write_knowledge
from lab.benchmark.variant import Given, Source, Variant, seeds_of
from lab.benchmark.vectors import NOBODY, VectorSources, with_vectors
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.split import Part, split_events
from msd.dataset.texts import student_texts
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features, build_features
from msd.ranker.schema_fit import fit_schema
from msd.step import STEP_FILE, fingerprint_of
from msd.student.encoder import load_student
from msd.student.step import distill
from msd.student.vectors import LevelVectors, StudentVectors, load_vectors
from msd.teachers.knowledge import KnowledgeBase, TeachRecord, load_knowledge, load_record
from msd.training.finetune import finetune_ranker
from msd.training.folder import FORMAT as RANKER_FORMAT
from msd.training.folder import NetworkInputs, train_network
from msd.training.train import predict

_STUDENT = "student"
_UNTAUGHT = "untaught"


class Show(Interface):
    """Listener to a benchmark's progress."""

    def part(self, name: str, done: int, total: int) -> None:
        """Show which model is being made, and how many there are in all."""
        ...

    def advance(self, doing: str, done: int, total: int) -> None:
        """Show the progress of the current model."""
        ...


@dataclass(frozen=True)
class Results:
    """`rows`: the test rows by seed. `found`: by variant, the predictions of each of its seeds. `distilling`: seconds
    spent on distilling students, in any run. `taught`: the record of the knowledge."""

    rows: Mapping[int, TestRows]
    found: Mapping[str, Mapping[int, Predictions]]
    distilling: float
    taught: TeachRecord


def run_benchmark(protocol: Protocol, data: Path, work: Path, seeds: Sequence[int], show: Show) -> Results:
    """Prepare the data, distil the student, and train all variants that `work` does not have yet."""
    show.part("preparing", 0, 1)
    runner = BenchmarkRunner(protocol, data, work, show)
    due = [
        (variant, seed)
        for seed in seeds
        for variant in protocol.variants
        if seed in seeds_of(variant, seeds, protocol.ablation_seeds)
    ]
    found: dict[str, dict[int, Predictions]] = {variant.name: {} for variant in protocol.variants}
    for done, (variant, seed) in enumerate(due):
        show.part(f"{variant.name}, seed {seed}", done, len(due))
        found[variant.name][seed] = runner.predictions(variant, seed)
    show.part("all models are made", len(due), len(due))
    taken = sum(
        json.loads(step.read_text("utf-8"))["seconds"]
        for step in (work / _STUDENT / STEP_FILE, *(work / _UNTAUGHT).glob(f"student-*/{STEP_FILE}"))
    )
    return Results({seed: rows_of(runner.of_seed(seed)) for seed in seeds}, found, taken, runner.taught)


class _Made(NamedTuple):
    """A trained network. `seconds`: duration of its training, in any run; `own`: the part of it just spent. `vectors`:
    of its own student, if it is tuned."""

    model: TrainedRanker
    seconds: float
    own: float
    vectors: StudentVectors | None = None


class BenchmarkRunner:
    """One benchmark's data and student, and the predictions of each variant and seed."""

    def __init__(self, protocol: Protocol, data: Path, work: Path, show: Show) -> None:
        self._protocol, self._work, self._show = protocol, work, show
        self._folders = folders = protocol.prepare(data, work, show.advance)
        self._dataset, self._knowledge = load_dataset(folders.dataset), load_knowledge(folders.knowledge)
        self.taught = load_record(folders.knowledge)
        student = self._distilled(folders, work / _STUDENT)
        self._sources = VectorSources(
            self._dataset, self._knowledge, student, show.advance, users=protocol.user_vectors
        )
        self._latest: tuple[int, Dataset] | None = None
        # Of the latest seed's dataset, by whether the schema has vectors.
        self._features: dict[bool, Features] = {}

    def _distilled(self, folders: Folders, student: Path) -> Path:
        """Distil a student unless its folder is complete, and return the folder."""

        def hear(doing: str, done: int, total: int, note: str) -> None:
            self._show.advance(f"distilling: {doing}", done, total)

        distill(*folders, student, self._protocol.distilling, hear)
        return student

    def of_seed(self, seed: int) -> Dataset:
        """Return the dataset of a seed; the latest is cached."""
        if self._latest is None or self._latest[0] != seed:
            dataset = self._protocol.of_seed(self._dataset, seed)
            if self._latest is None or dataset is not self._latest[1]:
                self._features.clear()
            self._latest = seed, dataset
        return self._latest[1]

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
        tuning = asdict(protocol.tuning) if variant.tuned else "textless" if variant.textless else None
        return fingerprint_of(FORMAT, RANKER_FORMAT, dataset, *settings, made_of, tuning)

    def _fitted(self, variant: Variant, seed: int) -> Predictions:
        assert variant.fitted
        dataset, given = self.of_seed(seed), [self._built(seed, live, semantics=False) for live in self._lives()]
        start = time.perf_counter()
        features = given[0]
        events = features.of_part(Part.VALID, Part.TEST)
        said = [variant.fitted(Given(dataset, self._knowledge, one, seed), events) for one in given]
        seconds = time.perf_counter() - start
        is_test = features.parts[events] == Part.TEST
        valid, test, live = said[0][~is_test], said[0][is_test], said[-1][is_test]
        return Predictions(valid, test, live, valid_auc(dataset, valid), seconds, seconds)

    def _trained(self, variant: Variant, seed: int) -> Predictions:
        vectors = self._vectors(variant, seed)
        given = [self._with(vectors, seed, live) for live in self._lives()]
        made = self._network(variant, seed, given[0])
        start = time.perf_counter()
        asked = self._without_test_items(vectors, seed) if variant.textless and vectors else made.vectors
        if asked:
            given = [with_vectors(features, asked) for features in given]
        model = made.model
        valid = predict(model, given[0], given[0].of_part(Part.VALID))
        test, live = (predict(model, one, one.of_part(Part.TEST)) for one in (given[0], given[-1]))
        own = time.perf_counter() - start
        auc = valid_auc(self.of_seed(seed), valid)
        return Predictions(valid, test, live, auc, made.seconds + own, made.own + own)

    def _vectors(self, variant: Variant, seed: int) -> StudentVectors | None:
        if variant.source != "untaught":
            return self._sources.of(variant.source) if variant.source else None
        folder, dataset = self._work / _UNTAUGHT, self.of_seed(seed)
        taught = set(self._items(dataset, Part.WINDOW, Part.TRAIN))
        base = KnowledgeBase({id_: one for id_, one in self._knowledge.items.items() if id_ in taught}, {})
        knowledge = write_knowledge(folder / f"knowledge-{seed}", base, self.taught)
        student = self._distilled(Folders(self._folders.dataset, knowledge), folder / f"student-{seed}")
        return replace(load_vectors(student), users=NOBODY)

    def _without_test_items(self, vectors: StudentVectors, seed: int) -> StudentVectors:
        hidden = set(self._items(self.of_seed(seed), Part.TEST))
        places = [place for place, id_ in enumerate(vectors.items.ids) if id_ not in hidden]
        kept = LevelVectors([vectors.items.ids[place] for place in places], vectors.items.vectors[places])
        return replace(vectors, items=kept)

    @staticmethod
    def _items(dataset: Dataset, *parts: Part) -> list[str]:
        """Return the IDs of the items with rows in these parts."""
        held = np.isin(split_events(dataset.events, dataset.config), parts)
        ids: list[str] = dataset.events["item_id"].filter(pl.Series(held)).unique().to_list()
        return ids

    def _network(self, variant: Variant, seed: int, features: Features) -> "_Made":
        """Return a trained network; a tuned one starts from that of the variant without tuning."""
        protocol = self._protocol
        if variant.textless:
            return self._network(variant.first_stage(), seed, features)
        if variant.tuned and variant.source:
            return self._tuned(variant, variant.source, seed, features)
        config, training = variant.config(protocol.ranker), replace(protocol.training, seed=seed)
        inputs = NetworkInputs(self.of_seed(seed).fingerprint, self._sources.student.student, features)
        steps = training.steps(len(features.of_part(Part.WINDOW, Part.TRAIN)))

        def show(epoch: int, step: int, loss: float) -> None:
            self._show.advance(f"epoch {epoch}, loss {loss:.3f}", step, steps)

        folder, run = self._folder(variant, seed), self._fingerprint(variant, seed)
        network = train_network(folder, run, inputs, config, training, show)
        return _Made(network.model, network.seconds, network.own)

    def _tuned(self, variant: Variant, source: Source, seed: int, features: Features) -> "_Made":
        """Return the first stage's network, trained further together with its student."""
        first = self._network(variant.first_stage(), seed, features)
        start = time.perf_counter()
        tuning = replace(self._protocol.tuning, seed=seed)

        def show(epoch: int, step: int, loss: float) -> None:
            self._show.advance(f"tuning, epoch {epoch}, loss {loss:.3f}", step, tuning.steps)

        folder, run = self._folder(variant, seed), self._fingerprint(variant, seed)
        student, texts = load_student(self._work / _STUDENT), student_texts(self._dataset)
        held, path = self._sources.of(source), folder / "checkpoint.safetensors"
        tuned = finetune_ranker(first.model, features, student, held, texts, tuning, path, run, show)
        shutil.rmtree(folder, ignore_errors=True)
        own = time.perf_counter() - start
        vectors = StudentVectors(run, tuned.items, tuned.users)
        return _Made(tuned.ranker, first.seconds + own, first.own + own, vectors)

    def _folder(self, variant: Variant, seed: int) -> Path:
        return self._work / "models" / f"{variant.name}-{seed}"

    def _lives(self) -> tuple[bool, ...]:
        """Return which counts test rows get: False for those at the end of train, True for live ones."""
        return (False,) if self._protocol.rows_vary else (False, True)

    def _with(self, vectors: StudentVectors | None, seed: int, live: bool) -> Features:
        features = self._built(seed, live, semantics=vectors is not None)
        return features if vectors is None else with_vectors(features, vectors)

    def _built(self, seed: int, live: bool, *, semantics: bool) -> Features:
        """Return the features of a seed's rows, with the student's vectors or without."""
        dataset = self.of_seed(seed)
        if semantics not in self._features:
            self._show.advance("reading the events", 0, 1)
            schema = fit_schema(dataset, semantics=semantics)
            self._features[semantics] = build_features(dataset, schema, self._sources.student)
        features = self._features[semantics]
        return features.live() if live else features
