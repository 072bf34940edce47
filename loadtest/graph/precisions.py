"""The passed reference model in lower precisions, each judged by the clicks that it was not trained on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import onnx
from numpy.typing import NDArray

from loadtest.graph.clicks import Clicks
from loadtest.graph.inputs import Feeds
from loadtest.graph.race import Run
from loadtest.graph.runners import Runner, in_onnxruntime, in_openvino_bf16, in_openvino_of_bf16
from model_export.errors import ExportError
from model_export.precision.gate import Verdict, judge
from model_export.precision.int8 import quantise
from msd.contract.precision import Precision

_ROWS_FOR_RANGES = 64  # requests, of users that are not judged by

Open = Callable[[onnx.ModelProto, list[Feeds]], Runner]
OpenProducts = Callable[[onnx.ModelProto, Feeds], Run]
"""Opens a graph of matrix products, to be run on one request."""


@dataclass(frozen=True)
class Lowered:
    """A precision that this machine has: the passed graph in it, how well that scores, how its products are opened."""

    runner: Runner
    verdict: Verdict
    open_products: OpenProducts


@dataclass(frozen=True)
class Precisions:
    """Those that could be tried, and of the others why not."""

    tried: Mapping[Precision, Lowered]
    left_out: Mapping[Precision, str]


def lowered(passed: onnx.ModelProto, known: Clicks, held: Clicks) -> Precisions:
    """The passed graph in each precision. Scales come of `known`, the judgement of `held`."""
    rows = list(islice(known.requests(), _ROWS_FOR_RANGES))
    plain = scores(in_onnxruntime(passed), held)
    tried: dict[Precision, Lowered] = {}
    left_out: dict[Precision, str] = {}
    for precision, (open_graph, open_products) in _OPENERS.items():
        try:
            runner = open_graph(passed, rows)
        except ExportError as error:
            left_out[precision] = str(error)
        else:
            tried[precision] = Lowered(runner, judged(held, plain, scores(runner, held)), open_products)
    return Precisions(tried, left_out)


def scores(runner: Runner, clicks: Clicks) -> NDArray[np.float32]:
    """The first head's scores [R, C] of all requests."""
    return np.stack([runner(feeds)[0] for feeds in clicks.requests()]).astype(np.float32)


def judged(held: Clicks, plain: NDArray[np.float32], other: NDArray[np.float32]) -> Verdict:
    """What the gate says of other scores than those in fp32, both [R, C]; each request is of another user."""
    users = np.repeat(np.arange(len(held.candidates)), held.candidates.shape[1])
    labels, before, after = (one.ravel().astype(np.float64) for one in (held.clicked, plain, other))
    return judge(labels, users, before, after)


def _int8(model: onnx.ModelProto, rows: list[Feeds]) -> Runner:
    return in_onnxruntime(onnx.load_from_string(quantise(model.SerializeToString(), rows)))


def _bf16(model: onnx.ModelProto, rows: list[Feeds]) -> Runner:
    return in_openvino_bf16(model)


def _int8_products(model: onnx.ModelProto, feeds: Feeds) -> Run:
    return partial(_int8(model, [feeds]), feeds)


_OPENERS: Mapping[Precision, tuple[Open, OpenProducts]] = {
    "int8": (_int8, _int8_products),
    "bf16": (_bf16, in_openvino_of_bf16),
}
