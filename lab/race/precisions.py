"""A passed model in each served form, judged by clicks that it was not trained on."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import onnx
from numpy.typing import NDArray

from lab.race.figures import LOWER, OPENVINO, Form
from lab.race.race import Run
from lab.race.runners import Runner, in_onnxruntime, in_openvino, in_openvino_of_bf16
from lab.reference.clicks import Clicks
from lab.reference.inputs import Feeds
from model_export.errors import ExportError
from model_export.precision.gate import Verdict, judge
from model_export.precision.int8 import check_int8, quantise
from msd.contract.openvino import OpenVinoPrecision

_ROWS_FOR_RANGES = 64  # requests, of users that are not judged

Served = Callable[[int], Runner]
"""Opens a graph as the service does, for an expected number of candidates."""
Open = Callable[[onnx.ModelProto, list[Feeds]], Served]
"""Prepares an fp32 graph, with scales from some requests."""
OpenProducts = Callable[[onnx.ModelProto, Feeds], Run]
"""Opens a graph of matrix products for one request."""


@dataclass(frozen=True)
class Lowered:
    """A form that this machine can serve: the passed graph in it, its verdict, and how its products are opened."""

    served: Served
    verdict: Verdict
    open_products: OpenProducts | None


@dataclass(frozen=True)
class Precisions:
    """The forms that could be tried, and the reasons why others could not."""

    tried: Mapping[Form, Lowered]
    not_possible: Mapping[Form, str]


def lowered(
    passed: onnx.ModelProto,
    known: Clicks,
    held: Clicks,
    instructions: tuple[str, ...],
    forms: Iterable[Form] = LOWER,
) -> Precisions:
    """Return the passed graph in some forms, on a CPU with these instructions.

    Scales come from `known`, verdicts from `held`.
    """
    rows = list(islice(known.requests(), _ROWS_FOR_RANGES))
    plain = scores(in_onnxruntime(passed), held)
    tried: dict[Form, Lowered] = {}
    not_possible: dict[Form, str] = {}
    for form in forms:
        open_graph, open_products = _OPENERS[form]
        try:
            if form == "int8":
                check_int8(instructions)
            served = open_graph(passed, rows)
            found = scores(served(held.candidates.shape[1]), held)
        except ExportError as error:
            not_possible[form] = str(error)
        else:
            tried[form] = Lowered(served, judged(held, plain, found), open_products)
    return Precisions(tried, not_possible)


def scores(runner: Runner, clicks: Clicks) -> NDArray[np.float32]:
    """Return the first head's scores [R, C] of all requests."""
    return np.stack([runner(feeds)[0] for feeds in clicks.requests()]).astype(np.float32)


def judged(held: Clicks, plain: NDArray[np.float32], other: NDArray[np.float32]) -> Verdict:
    """Judge scores against fp32's, both [R, C]; each request is another user's."""
    users = np.repeat(np.arange(len(held.candidates)), held.candidates.shape[1])
    labels, before, after = (one.ravel().astype(np.float64) for one in (held.clicked, plain, other))
    return judge(labels, users, before, after)


def _int8(model: onnx.ModelProto, rows: list[Feeds]) -> Served:
    runner = in_onnxruntime(onnx.load_from_string(quantise(model.SerializeToString(), rows)))
    return lambda _: runner


def _on_openvino(precision: OpenVinoPrecision) -> Open:
    return lambda model, _: partial(in_openvino, model, precision)


def _int8_products(model: onnx.ModelProto, feeds: Feeds) -> Run:
    return partial(_int8(model, [feeds])(0), feeds)


_OPENERS: Mapping[Form, tuple[Open, OpenProducts | None]] = {
    OPENVINO: (_on_openvino("fp32"), None),
    "int8": (_int8, _int8_products),
    "bf16": (_on_openvino("bf16"), in_openvino_of_bf16),
}
