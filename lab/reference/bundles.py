"""Bundles of the reference model, exported like any other, and its graphs as others would serve them. Its weights are
drawn and clicks follow its scores, because how fast it is depends on neither.

Kept in a folder until their inputs change.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import onnx
import torch

from lab.reference.graphs import own_tiled_graph, plain_graph, tiled_graph
from lab.reference.inputs import Sizes
from lab.reference.market import Population, new_market
from lab.reference.network import made
from model_export.export import export_bundle
from model_export.foreign.bind import bind_inputs
from model_export.foreign.source import recipe_of
from model_export.precision.choice import RequestedPrecision
from msd.contract.bundle import FORMAT_VERSION, open_bundle
from msd.contract.errors import BundleError
from msd.contract.files import write_bytes_atomic
from msd.contract.precision import Precision
from msd.contract.rows import ROW_FORMAT
from msd.report import Heard
from msd.step import fingerprint_of, is_done, mark_done
from msd.training.folder import load_ranker

_FORMAT = 5
_HEADS = {"pctr": "pctr"}
# The network's inputs → the schema's tensors.
_TENSORS = {
    "user_fields": "user_categorical",
    "user_vector": "user_semantic",
    "history": "history_semantic",
    "history_mask": "history_mask",
    "item_fields": "item_categorical",
    "item_vector": "item_semantic",
}


@dataclass(frozen=True)
class Makings:
    """Inputs of the bundles. `seed`: of the weights. `requests`: number to prove against the plain graph. `candidates`:
    per timed request. `precisions`: of `fp32` and `best`; the latter may be left out."""

    sizes: Sizes = field(default_factory=Sizes)
    seed: int = 0
    population: Population = field(default_factory=Population)
    requests: int = 300
    candidates: int = 200
    precisions: tuple[RequestedPrecision, ...] = ("fp32", "auto")


@dataclass(frozen=True)
class Bundles:
    """The same weights in fp32 and in the best precision that passed the gate; and the fp32 graph as written, `tiled`:
    it takes every input with one row per candidate."""

    fp32: Path
    best: Path
    tiled: Path

    @property
    def precision(self) -> Precision:
        """The precision of `best`."""
        return open_bundle(self.best, rows=False).precision.chosen


def made_bundles(work: Path, makings: Makings, progress: Heard) -> Bundles:
    """Return the bundles in `work`, made first if missing. Raises MsdError if one cannot be made."""
    bundles = Bundles(work / "fp32", work / "best", work / "graphs" / "tiled.onnx")
    run = fingerprint_of(_FORMAT, FORMAT_VERSION, ROW_FORMAT, asdict(makings), torch.__version__)
    if is_done(work, run):
        return bundles
    start = time.perf_counter()
    progress("Generating users and items", 0, 1)
    network = made(makings.sizes, makings.seed)
    plain = _renamed(plain_graph(network, makings.sizes))
    write_bytes_atomic(bundles.tiled, _renamed(tiled_graph(network, makings.sizes)).SerializeToString())
    market = new_market(network, makings.population)
    recipe = recipe_of(
        plain,
        bind_inputs(plain, market.schema),
        _HEADS,
        market.dataset,
        market.schema,
        market.vectors,
        market.adaptors,
        None,
    )
    for folder, precision in zip((bundles.fp32, bundles.best), makings.precisions, strict=False):
        shutil.rmtree(folder, ignore_errors=True)
        told = _told(progress, folder, makings)
        export_bundle(recipe, folder, None, makings.requests, told, precision, makings.candidates)
    mark_done(work, run, time.perf_counter() - start)
    return bundles


def own_bundles(bundle: Path, model: Path, work: Path) -> Bundles:
    """Return a bundle of MSD's own ranker, in whatever precision it has, and the graph of the folder that `msd train`
    has made, written into `work`. Raises MsdError, also if these have different schemas."""
    graph, trained = work / "tiled.onnx", load_ranker(model).model
    if open_bundle(bundle, rows=False).schema != trained.schema:
        raise BundleError(f"{bundle}: is not of the ranker in {model}: their schemas differ")
    work.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(graph, own_tiled_graph(trained))
    return Bundles(bundle, bundle, graph)


def _told(progress: Heard, folder: Path, makings: Makings) -> Callable[[str, int], None]:
    return lambda doing, done: progress(f"{doing} ({folder.name})", done, max(makings.requests, done))


def _renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rename the graph's inputs to the schema's tensors."""
    for value in model.graph.input:
        value.name = _TENSORS[value.name]
    for node in model.graph.node:
        node.input[:] = [_TENSORS.get(name, name) for name in node.input]
    return model
