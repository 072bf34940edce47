"""Bundles of the trained reference model, exported like any other, and its graphs as others would serve them.

Kept in a folder until their inputs change; an interrupted run resumes.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import onnx
import torch

from lab.reference.graphs import plain_graph, tiled_graph
from lab.reference.inputs import Sizes
from lab.reference.market import Population, new_market
from lab.reference.training import ReferenceTraining, trained, trained_reference
from model_export.export import export_bundle
from model_export.foreign.bind import bind_inputs
from model_export.foreign.source import Foreign
from model_export.precision.choice import Asked
from msd.contract.bundle import ROWS, open_bundle
from msd.contract.errors import BundleError
from msd.contract.files import write_bytes_atomic
from msd.contract.precision import Precision
from msd.contract.row_file import RowFile
from msd.contract.rows import RowCodec, RowSide
from msd.report import Heard
from msd.step import fingerprint_of, is_done, mark_done

_FORMAT = 2
_HEADS = {"pctr": "pctr"}
_SIDES: tuple[RowSide, ...] = ("user", "item")
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
    """Inputs of the bundles. `requests`: number to prove against the plain graph. `candidates`: per timed request."""

    sizes: Sizes = field(default_factory=Sizes)
    training: ReferenceTraining = field(default_factory=ReferenceTraining)
    population: Population = field(default_factory=Population)
    requests: int = 300
    candidates: int = 200


@dataclass(frozen=True)
class Bundles:
    """The same weights in fp32 and in the best precision that passed the gate, both with a lean graph; and two fp32
    graphs as written: `tiled` takes every input with one row per candidate, `plain` the user's once."""

    fp32: Path
    best: Path
    tiled: Path
    plain: Path

    @property
    def precision(self) -> Precision:
        """The precision of `best`."""
        return open_bundle(self.best, rows=False).precision.chosen


def made_bundles(work: Path, makings: Makings, heard: Heard) -> Bundles:
    """Return the bundles in `work`, made first if missing. Raises MsdError if one cannot be made."""
    bundles = Bundles(work / "fp32", work / "best", work / "graphs" / "tiled.onnx", work / "graphs" / "plain.onnx")
    run = fingerprint_of(_FORMAT, asdict(makings), torch.__version__)
    if is_done(work, run) and _is_readable(bundles.fp32) and _is_readable(bundles.best):
        return bundles
    start = time.perf_counter()
    hears = partial(heard, "Training the reference model")
    network = trained_reference(work / "model", makings.sizes, makings.training, hears).network
    hears = partial(heard, "Training the lean reference model")
    lean = trained("lean", makings.training.seed, work / "model", makings.sizes, makings.training, hears)
    heard("Generating users and items", 0, 1)
    plain = _renamed(plain_graph(network, network, makings.sizes))
    write_bytes_atomic(bundles.plain, plain.SerializeToString())
    write_bytes_atomic(bundles.tiled, _renamed(tiled_graph(network, makings.sizes)).SerializeToString())
    market = new_market(makings.sizes, makings.population, makings.training.seed)
    source = Foreign(
        plain,
        bind_inputs(plain, market.schema),
        _HEADS,
        market.dataset,
        market.schema,
        market.vectors,
        market.adaptors,
        None,
        lean=_renamed(plain_graph(lean, lean, makings.sizes)),
    )
    wanted: Mapping[Path, Asked] = {bundles.fp32: "fp32", bundles.best: "auto"}
    for folder, precision in wanted.items():
        if not _is_readable(folder):  # another version's bundle may not be
            shutil.rmtree(folder, ignore_errors=True)
        told = _told(heard, folder, makings)
        export_bundle(source, folder, None, makings.requests, told, precision, makings.candidates)
    mark_done(work, run, time.perf_counter() - start)
    return bundles


def _is_readable(folder: Path) -> bool:
    """Return whether there is a bundle with row files of this version's format."""
    try:
        bundle = open_bundle(folder)
        for side in _SIDES:
            RowFile(bundle.path(ROWS[side]), RowCodec(bundle.schema, side, bundle.bundle_id), bundle.bundle_id)
    except BundleError:
        return False
    return True


def _told(heard: Heard, folder: Path, makings: Makings) -> Callable[[str, int], None]:
    return lambda doing, done: heard(f"{doing} ({folder.name})", done, max(makings.requests, done))


def _renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rename the graph's inputs to the schema's tensors."""
    for one in model.graph.input:
        one.name = _TENSORS[one.name]
    for node in model.graph.node:
        node.input[:] = [_TENSORS.get(name, name) for name in node.input]
    return model
