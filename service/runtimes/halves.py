"""A ranker in two sessions of ONNX Runtime: what no candidate enters, and the rest. Together they run the same kernels
on the same values as the whole graph, so scores are equal to the bit; `open_halves` verifies it on some goldens.

The graph is split after the runtime has optimised it: split before, operators would not be fused across the cut, and
scores would differ by rounding.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from msd.contract.assemble import Tensors
from msd.contract.bundle import GOLDENS, RANKER, Bundle
from msd.contract.golden import golden_tensors, read_goldens, repeated
from msd.contract.rows import ROW_SIDES, RowCodec
from service.runtimes.onnxruntime import NAME, open_session
from service.runtimes.runtime import Engine, Runtime, Scores
from service.runtimes.split import SplitGraph, Unsplit

# ONNX's numbers of element types, by ONNX Runtime's names.
_ELEMENTS = {
    "tensor(float)": 1,
    "tensor(uint8)": 2,
    "tensor(int8)": 3,
    "tensor(int32)": 6,
    "tensor(int64)": 7,
    "tensor(bool)": 9,
    "tensor(double)": 11,
}
_PROVED_GOLDENS, _PROVED_CANDIDATES = 5, (1, 2, 50, 200)


class CandidateHalf:
    """The half that scores, as a `Runtime`: its tensors are those of the candidates, and `Halves.prepared`."""

    def __init__(self, session: Any, heads: Sequence[str], engine: Engine) -> None:  # noqa: ANN401
        self.engine = engine
        self._session, self._heads = session, heads
        self._inputs = [one.name for one in session.get_inputs()]

    def run(self, tensors: Tensors) -> Scores:
        """→ scores [N] by head."""
        return dict(zip(self._heads, self._session.run(self._heads, self.of(tensors)), strict=True))

    def of(self, tensors: Tensors) -> Tensors:
        """Return those that it reads."""
        return {name: tensors[name] for name in self._inputs if name in tensors}

    def warm_up_sizes(self, max_candidates: int) -> Sequence[int]:
        """Return only the largest, as the whole graph does."""
        return (max_candidates,)


@dataclass(frozen=True, slots=True)
class Halves:
    """Both halves."""

    candidates: CandidateHalf
    _session: Any
    _inputs: Sequence[str]
    """Names of the user's and the context's tensors."""
    _values: Sequence[str]

    def prepared(self, tensors: Tensors) -> Tensors:
        """Return what the second half needs of user and context; tensors of candidates are not read."""
        of_user = {name: tensors[name] for name in self._inputs}
        wanted = {one.name: of_user[one.name] for one in self._session.get_inputs()}
        values = dict(zip(self._values, self._session.run(list(self._values), wanted), strict=True))
        return self.candidates.of(of_user) | values


def open_halves(bundle: Bundle, whole: Runtime) -> Halves:
    """Split the graph that `whole` runs. Raises Unsplit, which says why it stays whole."""
    halves = _opened(bundle, whole.engine)
    for tensors in _proof(bundle):
        one, other = whole.run(tensors), halves.candidates.run(tensors | halves.prepared(tensors))
        if any(not np.array_equal(one[head], other[head]) for head in one):
            raise Unsplit("its halves do not score as the whole graph does, bit for bit")
    return halves


def _proof(bundle: Bundle) -> Iterator[Tensors]:
    """Yield requests of several sizes from the bundle's goldens."""
    user, item = (RowCodec(bundle.schema, side, bundle.bundle_id) for side in ROW_SIDES)
    for golden in islice(read_goldens(bundle.path(GOLDENS)), _PROVED_GOLDENS):
        tensors = golden_tensors(bundle.schema, user, item, golden).tensors
        yield tensors
        for count in _PROVED_CANDIDATES:
            yield repeated(bundle.schema, tensors, count)


def _opened(bundle: Bundle, engine: Engine) -> Halves:
    if (engine.name, engine.provider) != (NAME, "cpu"):
        raise Unsplit(f"the model runs on {engine.name} ({engine.provider}), not on {NAME} (cpu)")
    inputs = [spec.name for spec in bundle.schema.tensors if spec.side != "item"]
    try:
        with tempfile.TemporaryDirectory() as folder:
            optimised = Path(folder) / RANKER
            open_session(bundle.path(RANKER), "cpu", engine.threads, optimised=optimised)
            split = SplitGraph(optimised.read_bytes(), set(inputs))
    except OSError as error:
        raise Unsplit(f"its optimised graph cannot be written to a temporary folder: {error}") from error
    user = open_session(split.first(), "cpu", engine.threads, is_optimised=True)
    try:
        types = {one.name: _ELEMENTS[one.type] for one in user.get_outputs()}
    except KeyError as error:
        raise Unsplit(f"a value that its halves share has the type {error}") from None
    candidates = open_session(split.second(types), "cpu", engine.threads, is_optimised=True)
    return Halves(CandidateHalf(candidates, bundle.manifest.heads, engine), user, inputs, split.values)
