"""The graph benchmark: train, export, factorise, prove, judge precisions, time, report."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lab.benchmark.machine import machine_now
from lab.race.bundle import RacedRanker, ranker_of
from lab.race.contestants import Contestant, beside, graphs_of, in_all_precisions, on, without_rules
from lab.race.figures import (
    LOWER,
    OPENVINO,
    PASSED,
    PLAIN,
    REFERENCE,
    SHOWN,
    Form,
    RaceFigures,
    Timed,
    Times,
    by_text,
    fastest,
    graph_in,
    leaner_in,
    summarised,
    summarised_leaner,
)
from lab.race.leaner import AUC_MARGIN, LOGLOSS_MARGIN, Leaner, Study, leaner_models
from lab.race.precisions import Lowered, lowered
from lab.race.race import race
from lab.race.subject import Subject, untrained
from lab.reference.inputs import Sizes
from lab.reference.training import (
    ReferenceTraining,
    TrainedReference,
    quality,
    torch_scores,
    trained_reference,
)
from model_export.errors import ExportError
from msd.contract.instructions import cpu_instructions
from msd.contract.precision import Precision
from msd.report import Heard


@dataclass(frozen=True)
class GraphPlan:
    """Plan of the benchmark. `seconds`: of each race; twice that for the reference model's."""

    sizes: Sizes = field(default_factory=Sizes)
    training: ReferenceTraining = field(default_factory=ReferenceTraining)
    study: Study = field(default_factory=Study)
    counts: tuple[int, ...] = (20, 50, 200, 1_000)
    seconds: float = 4.0


def bench_graph(plan: GraphPlan, work: Path, bundle: Path | None, heard: Heard) -> dict[str, Any]:
    """Return all figures, ready for JSON. `work` keeps trained models. Raises MsdError if `bundle` is invalid."""
    start = time.perf_counter()
    ranker = None if bundle is None else ranker_of(bundle)
    trained = trained_reference(work, plan.sizes, plan.training, partial(heard, "Training the reference model"))
    reference = Subject(REFERENCE, trained.network, plan.sizes)
    subjects = [reference, *untrained(plan.sizes)]
    leaner = leaner_models(
        work, plan.sizes, plan.training, plan.study, trained, partial(heard, "Training leaner models")
    )
    heard("Proving the pass", 0, 1)
    difference = max(subject.proved() for subject in [*subjects, *(one.subject for one in leaner.values())])
    heard("Judging precisions", 0, 1)
    precisions = lowered(reference.passed.model, trained.known, trained.held, cpu_instructions(), [*LOWER, OPENVINO])
    races = _Races(heard, races=len(plan.counts) * (len(subjects) + 1 + (ranker is not None)) + len(SHOWN))
    raced = in_all_precisions(reference, precisions.tried)
    models = {REFERENCE: races.timed("the reference model", raced, plan.counts, 2 * plan.seconds)}
    for subject in subjects[1:]:
        models[subject.name] = races.timed(subject.name, graphs_of(subject), plan.counts, plan.seconds)
    raced = beside(reference, leaner)
    of_leaner = races.timed("leaner models", raced, plan.counts, plan.seconds)
    rules = list(reference.passed.report.used)
    without_rule = races.timed("the pass without each rule", without_rules(reference, rules), SHOWN, plan.seconds)
    of_bundle, not_possible = None, {str(form): reason for form, reason in precisions.not_possible.items()}
    if ranker is not None:
        try:
            raced = _graphs_of(ranker)
        except ExportError as error:
            not_possible["bundle"] = str(error)
        else:
            of_bundle = races.timed("the bundle's ranker", raced, plan.counts, plan.seconds)
    heard("Done", 1, 1)
    best = fastest(models[REFERENCE].blocks, {one: graph_in(one) for one in _accepted(precisions.tried)})
    figures = summarised(RaceFigures(models, without_rule, of_bundle, difference, best))
    return figures | {
        "reference": _quality(trained, precisions.tried),
        "lean": _leaner(plan.study, leaner, of_leaner),
        "not_possible": not_possible,
        "bundle": None if ranker is None else ranker.as_json(),
        "machine": _machine(),
        "seconds": round(time.perf_counter() - start, 1),
    }


class _Races:
    """Runner of races; reports how many are over."""

    def __init__(self, heard: Heard, races: int) -> None:
        self._heard, self._races, self._over = heard, races, 0

    def timed(self, doing: str, contestants: Mapping[str, Contestant], counts: Sequence[int], seconds: float) -> Timed:
        """Return the median microseconds of each contestant, by number of candidates."""
        turns: dict[str, dict[int, float]] = {name: {} for name in contestants}
        blocks: dict[str, dict[int, float]] = {name: {} for name in contestants}
        for count in counts:
            self._heard(f"Timing {doing}", self._over, self._races)
            for name, median in race({name: make(count) for name, make in contestants.items()}, seconds).items():
                turns[name][count], blocks[name][count] = median
            self._over += 1
        return Timed(turns, blocks)


def _graphs_of(ranker: RacedRanker) -> dict[str, Contestant]:
    graphs = {PLAIN: ranker.plain, PASSED: ranker.passed}
    return {name: on(ranker.opened(graph), ranker.request) for name, graph in graphs.items()}


def _accepted(tried: Mapping[Form, Lowered]) -> list[Precision]:
    """Return fp32 and the precisions that the gate accepts."""
    return ["fp32", *(one for one in LOWER if one in tried and tried[one].verdict.refused is None)]


def _leaner(study: Study, leaner: Mapping[str, Leaner], timed: Timed) -> dict[str, Any]:
    told = {"seeds": study.seeds, "rows": study.requests * study.candidates}
    margins = {"auc": AUC_MARGIN, "logloss": LOGLOSS_MARGIN}
    return told | {"margins": margins, "models": {name: _of(name, one, timed) for name, one in leaner.items()}}


def _of(name: str, one: Leaner, timed: Timed) -> dict[str, Any]:
    tried = one.precisions.tried
    found = one.comparison
    return {
        "auc": found.auc._asdict(),
        "logloss": found.logloss._asdict(),
        "as_good": found.as_good,
        **summarised_leaner(timed, name, _accepted(tried)),
        "precisions": {precision: lowered.verdict._asdict() for precision, lowered in tried.items()},
        "microseconds": _microseconds(timed.turns, name, tried),
        "microseconds_in_blocks": _microseconds(timed.blocks, name, tried),
    }


def _microseconds(times: Times, name: str, tried: Iterable[Form]) -> dict[Form, dict[str, float]]:
    forms: list[Form] = ["fp32", *tried]
    return by_text({form: times[leaner_in(name, form)] for form in forms})


def _quality(trained: TrainedReference, tried: Mapping[Form, Lowered]) -> dict[str, Any]:
    return {
        "truth": quality(trained.held, trained.held.chances),
        "fp32": quality(trained.held, torch_scores(trained.network, trained.held)),
        "precisions": {name: one.verdict._asdict() for name, one in tried.items()},
        "held_rows": trained.held.candidates.size,
    }


def _machine() -> dict[str, Any]:
    found = machine_now()
    return found | {"threads": 1, "load": found["load"]["1_min"]}
