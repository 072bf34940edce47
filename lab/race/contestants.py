"""The timed graphs, opened in their runtimes, for requests of any size. Times nothing."""

from collections.abc import Callable, Mapping
from functools import partial

from lab.race.figures import PASSED, PLAIN, TILED, TWIN, Form, floor_of, graph_in, leaner_in
from lab.race.gemms import products_graph, products_of
from lab.race.leaner import Leaner
from lab.race.precisions import Lowered, OpenProducts, Served
from lab.race.race import Run
from lab.race.runners import Runner, in_onnxruntime
from lab.race.subject import Subject
from lab.reference.inputs import Feeds, tiled
from model_export.factorise.rule import Rule

Contestant = Callable[[int], Run]
"""Returns its run for a number of candidates."""


def on(runner: Runner, request: Callable[[int], Feeds]) -> Contestant:
    """Return a graph's contestant, on requests of `request`."""
    return lambda count: partial(runner, request(count))


def _expecting(served: Served, request: Callable[[int], Feeds]) -> Contestant:
    """Return a graph's contestant, opened for exactly the number of candidates of each request."""
    return lambda count: partial(served(count), request(count))


def graphs_of(subject: Subject) -> dict[str, Contestant]:
    """Return a network's graphs: plain, passed and twin."""
    graphs = {PLAIN: subject.plain, PASSED: subject.passed.model, TWIN: subject.twin}
    return {name: on(in_onnxruntime(graph), subject.request) for name, graph in graphs.items()}


def in_all_precisions(subject: Subject, forms: Mapping[Form, Lowered]) -> dict[str, Contestant]:
    """Return a network's graphs, also tiled, and its passed graph and matrix products in each served form."""
    contestants = {TILED: _tiled(subject)} | graphs_of(subject)
    contestants |= {floor_of("fp32"): _products(subject, lambda graph, feeds: partial(in_onnxruntime(graph), feeds))}
    for form, one in forms.items():
        contestants[graph_in(form)] = _expecting(one.served, subject.request)
        if one.open_products is not None:
            contestants[floor_of(form)] = _products(subject, one.open_products)
    return contestants


def beside(reference: Subject, leaner: Mapping[str, Leaner]) -> dict[str, Contestant]:
    """Return the reference, tiled and passed, and each leaner model, passed, in each served form."""
    contestants = {TILED: _tiled(reference), PASSED: on(in_onnxruntime(reference.passed.model), reference.request)}
    for name, one in leaner.items():
        contestants[leaner_in(name, "fp32")] = on(in_onnxruntime(one.subject.passed.model), one.subject.request)
        for form, lowered in one.precisions.tried.items():
            contestants[leaner_in(name, form)] = _expecting(lowered.served, one.subject.request)
    return contestants


def _tiled(subject: Subject) -> Contestant:
    return on(in_onnxruntime(subject.tiled), lambda count: tiled(subject.request(count)))


def _products(subject: Subject, open_products: OpenProducts) -> Contestant:
    def make(count: int) -> Run:
        graph, feeds = products_graph(products_of(subject.passed.model, subject.request(count)), seed=count)
        return open_products(graph, feeds)

    return make


def without_rules(subject: Subject, rules: list[Rule]) -> dict[str, Contestant]:
    """Return the graph passed with all rules, and without each of `rules`."""
    graphs = {PASSED: subject.passed.model} | {rule.value: subject.without(rule) for rule in rules}
    return {name: on(in_onnxruntime(graph), subject.request) for name, graph in graphs.items()}
