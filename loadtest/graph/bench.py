"""The benchmark of the graph, top to bottom: train, export, factorise, prove, judge precisions, race, tell."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from loadtest.graph.bundle import ranker_of
from loadtest.graph.figures import (
    PASSED,
    PLAIN,
    REFERENCE,
    SHOWN,
    TILED,
    TWIN,
    Measured,
    Times,
    floor_of,
    graph_in,
    summarised,
)
from loadtest.graph.gemms import products_graph, products_of
from loadtest.graph.inputs import Feeds, Sizes, tiled
from loadtest.graph.precisions import Lowered, OpenProducts, lowered
from loadtest.graph.race import Run, race
from loadtest.graph.runners import Runner, in_onnxruntime
from loadtest.graph.subject import Subject, untrained
from loadtest.graph.training import Trained, Training, quality, torch_scores, trained_reference
from model_export.factorise.rule import Rule
from msd.benchmark.machine import machine
from msd.contract.precision import Precision

Contestant = Callable[[int], Run]
"""What it runs for a request of so many candidates."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long: `seconds` for each race, twice that for the reference model's."""

    sizes: Sizes = field(default_factory=Sizes)
    training: Training = field(default_factory=Training)
    counts: tuple[int, ...] = (20, 50, 200, 1_000)
    seconds: float = 5.0


class Heard(Protocol):
    """Hears what is being done, and how much of it, of how much."""

    def __call__(self, doing: str, done: int, total: int) -> None: ...


def bench_graph(plan: Plan, work: Path, bundle: Path | None, heard: Heard) -> dict[str, Any]:
    """All figures, ready for JSON. `work` keeps the trained model. Raises MsdError where `bundle` is none."""
    start = time.perf_counter()
    ranker = None if bundle is None else ranker_of(bundle)
    trained = trained_reference(work, plan.sizes, plan.training, partial(heard, "Training the reference model"))
    reference = Subject(REFERENCE, trained.network, plan.sizes)
    subjects = [reference, *untrained(plan.sizes)]
    heard("Proving the pass", 0, 1)
    difference = max(subject.proved() for subject in subjects)
    heard("Judging precisions", 0, 1)
    precisions = lowered(reference.passed.model, trained.known, trained.held)
    rules = [rule for rule in Rule if rule in reference.passed.report.used]
    races = len(plan.counts) * (len(subjects) + (ranker is not None)) + len(SHOWN)
    raced = 0

    def timed(doing: str, contestants: Mapping[str, Contestant], counts: tuple[int, ...], seconds: float) -> Times:
        nonlocal raced
        times: dict[str, dict[int, float]] = {name: {} for name in contestants}
        for count in counts:
            heard(f"Timing {doing}", raced, races)
            for name, median in race({name: make(count) for name, make in contestants.items()}, seconds).items():
                times[name][count] = median
            raced += 1
        return times

    models = {
        REFERENCE: timed(
            "the reference model", _with_precisions(reference, precisions.tried), plan.counts, 2 * plan.seconds
        )
    }
    for subject in subjects[1:]:
        models[subject.name] = timed(subject.name, _graphs(subject), plan.counts, plan.seconds)
    without_rule = timed("the pass without each rule", _without_rules(reference, rules), SHOWN, plan.seconds)
    of_bundle = None
    if ranker is not None:
        graphs = {PLAIN: ranker.plain, PASSED: ranker.passed}
        opened = {name: _on(in_onnxruntime(graph), ranker.request) for name, graph in graphs.items()}
        of_bundle = timed("the bundle's ranker", opened, plan.counts, plan.seconds)
    heard("Done", 1, 1)
    best = _fastest(models[REFERENCE], precisions.tried)
    figures = summarised(Measured(models, without_rule, of_bundle, difference, best))
    return figures | {
        "reference": _quality(trained, precisions.tried),
        "left_out": precisions.left_out,
        "machine": _machine(),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _on(runner: Runner, request: Callable[[int], Feeds]) -> Contestant:
    return lambda count: partial(runner, request(count))


def _graphs(subject: Subject) -> dict[str, Contestant]:
    graphs = {PLAIN: subject.plain, PASSED: subject.passed.model, TWIN: subject.twin}
    return {name: _on(in_onnxruntime(graph), subject.request) for name, graph in graphs.items()}


def _with_precisions(subject: Subject, precisions: Mapping[Precision, Lowered]) -> dict[str, Contestant]:
    contestants = {TILED: _on(in_onnxruntime(subject.tiled), lambda count: tiled(subject.request(count)))}
    contestants |= _graphs(subject) | {
        floor_of("fp32"): _products(subject, lambda graph, feeds: partial(in_onnxruntime(graph), feeds))
    }
    for precision, one in precisions.items():
        contestants[graph_in(precision)] = _on(one.runner, subject.request)
        contestants[floor_of(precision)] = _products(subject, one.open_products)
    return contestants


def _products(subject: Subject, open_products: OpenProducts) -> Contestant:
    def make(count: int) -> Run:
        graph, feeds = products_graph(products_of(subject.passed.model, subject.request(count)), seed=count)
        return open_products(graph, feeds)

    return make


def _without_rules(subject: Subject, rules: list[Rule]) -> dict[str, Contestant]:
    graphs = {PASSED: subject.passed.model} | {rule.value: subject.without(rule) for rule in rules}
    return {name: _on(in_onnxruntime(graph), subject.request) for name, graph in graphs.items()}


def _fastest(reference: Times, precisions: Mapping[Precision, Lowered]) -> Precision:
    """At 200 candidates, of those that the gate accepts."""
    accepted: list[Precision] = ["fp32", *(name for name, one in precisions.items() if one.verdict.refused is None)]
    return min(accepted, key=lambda precision: reference[graph_in(precision)][SHOWN[0]])


def _quality(trained: Trained, precisions: Mapping[Precision, Lowered]) -> dict[str, Any]:
    return {
        "truth": quality(trained.held, trained.held.chances),
        "fp32": quality(trained.held, torch_scores(trained.network, trained.held)),
        "precisions": {name: one.verdict._asdict() for name, one in precisions.items()},
        "held_rows": trained.held.candidates.size,
    }


def _machine() -> dict[str, Any]:
    found = machine()
    versions = dict(found["versions"]) if isinstance(found["versions"], dict) else {}
    for package in ("onnx", "onnxruntime", "openvino"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return found | {"threads": 1, "load": round(os.getloadavg()[0], 2), "versions": versions}
