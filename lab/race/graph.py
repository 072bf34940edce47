"""The graph benchmark: export, factorise, prove, time, report; and the leaner model's quality, if asked for."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from lab.benchmark.machine import machine_now
from lab.race.leaner import Study, study_leaner
from lab.race.products import products_graph, products_of
from lab.race.race import Run, race
from lab.race.report import PASSED, PLAIN, PRODUCTS, TILED, TWIN, Times, summarised
from lab.race.runners import Form, Served, forms_of, in_onnxruntime
from lab.race.subject import Subject
from lab.reference.inputs import Sizes, tiled
from lab.reference.network import NETWORKS, lively, made
from lab.reference.training import ReferenceTraining
from msd.contract.instructions import cpu_instructions
from msd.report import Heard

_ROWS_FOR_RANGES, _CANDIDATES_FOR_RANGES = 64, 100
Contestant = Callable[[int], Run]
"""Returns its run for a number of candidates."""


@dataclass(frozen=True)
class GraphPlan:
    """Plan of the benchmark. `seconds`: of each race; twice that for the reference model's. `study`: of the leaner
    model's quality, if any."""

    sizes: Sizes = field(default_factory=Sizes)
    training: ReferenceTraining = field(default_factory=ReferenceTraining)
    study: Study | None = None
    counts: tuple[int, ...] = (20, 50, 200, 1_000)
    seconds: float = 4.0


def bench_graph(plan: GraphPlan, work: Path, progress: Heard) -> dict[str, Any]:
    """Return all figures, ready for JSON. `work` keeps the networks that a study trains."""
    start = time.perf_counter()
    study = plan.study and study_leaner(work, plan.sizes, plan.training, plan.study, progress)
    subjects = {name: Subject(name, lively(made(name, plan.sizes, 0)), plan.sizes) for name in NETWORKS}
    reference, lean = subjects["reference"], subjects["lean"]
    progress("Proving the pass", 0, 1)
    difference = max(subject.proved() for subject in subjects.values())
    served, not_possible = _forms(reference)
    contestants = {name: _plain_and_passed(subject) for name, subject in subjects.items()}
    contestants["reference"] |= {
        TILED: _tiled(reference),
        TWIN: _on(reference.twin, reference),
        PRODUCTS: _products(reference),
        **_served(served, reference),
    }
    # Its times are compared with the reference's.
    contestants["lean"] |= {TILED: _tiled(reference), **_served(_forms(lean)[0], lean)}
    times: dict[str, Times] = {}
    for number, (name, raced) in enumerate(contestants.items()):
        progress(f"Timing {name}", number, len(contestants))
        seconds = plan.seconds * (2 if name == "reference" else 1)
        found = {count: race({graph: make(count) for graph, make in raced.items()}, seconds) for count in plan.counts}
        times[name] = {graph: {count: medians[graph] for count, medians in found.items()} for graph in raced}
    progress("Done", 1, 1)
    machine = machine_now()
    return summarised(times) | {
        "fp64_max_diff": difference,
        "not_possible": not_possible,
        "study": study,
        "machine": machine | {"threads": 1, "load": machine["load"]["1_min"]},
        "seconds": round(time.perf_counter() - start, 1),
    }


def _forms(subject: Subject) -> tuple[dict[Form, Served], dict[Form, str]]:
    rows = [subject.request(_CANDIDATES_FOR_RANGES, seed) for seed in range(_ROWS_FOR_RANGES)]
    return forms_of(subject.passed.model, rows, cpu_instructions())


def _on(graph: onnx.ModelProto, subject: Subject) -> Contestant:
    runner = in_onnxruntime(graph)
    return lambda count: partial(runner, subject.request(count))


def _plain_and_passed(subject: Subject) -> dict[str, Contestant]:
    return {PLAIN: _on(subject.plain, subject), PASSED: _on(subject.passed.model, subject)}


def _tiled(subject: Subject) -> Contestant:
    runner = in_onnxruntime(subject.tiled)
    return lambda count: partial(runner, tiled(subject.request(count)))


def _served(served: Mapping[Form, Served], subject: Subject) -> dict[str, Contestant]:
    """Return the forms' contestants, each opened for exactly the number of candidates of its requests."""

    def contestant(opened: Served) -> Contestant:
        return lambda count: partial(opened(count), subject.request(count))

    return {form: contestant(opened) for form, opened in served.items()}


def _products(subject: Subject) -> Contestant:
    """Return the matrix products of the passed graph alone."""

    def make(count: int) -> Run:
        graph, feeds = products_graph(products_of(subject.passed.model, subject.request(count)), seed=count)
        return partial(in_onnxruntime(graph), feeds)

    return make
