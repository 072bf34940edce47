"""Proof that the exported graph scores as the model does, from the same requests, rows and tensors."""

import json
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_export.errors import ExportError
from model_export.run import Run, open_run
from model_export.serving_view import Request
from msd.contract.assemble import Tensors, wanted_items
from msd.contract.bundle import RANKER, ROWS, Bundle
from msd.contract.golden import Golden, encode_row, golden_tensors, repeated
from msd.contract.request import parse_request
from msd.contract.row_file import RowFile
from msd.contract.rows import RowCodec, RowSide


class Parity(NamedTuple):
    """Requests with the model's scores as goldens, and the greatest differences from them: of the fp32 graph, and of
    the served graph if it is another."""

    goldens: list[Golden]
    max_abs_diff: float
    served_abs_diff: float


class Expected(NamedTuple):
    """Expected scores [H, N] of a request's tensors, and the name of what computes them."""

    scores: Callable[[Tensors], NDArray[np.float32]]
    by: str


def check_parity(
    bundle: Bundle,
    expected: Expected,
    requests: Iterable[Request],
    tolerance: float,
    progress: Callable[[int], None],
    graph: bytes | None = None,
    served: Run | None = None,
    candidates: int = 0,
) -> Parity:
    """Score every request with the model and with onnxruntime, from the bundle's own rows.

    `graph`: the ranker in fp32, if the bundle's own is not. `served` runs the bundle's own graph. Its difference is
    measured, not judged: on each request as it is, and repeated to `candidates`, the expected number. Raises
    ExportError, with both scores, at the first difference above `tolerance`.
    """
    heads = bundle.manifest.heads
    run = open_run(graph or bundle.path(RANKER).read_bytes(), "fp32", heads)
    rows = BundleRows(bundle)
    goldens: list[Golden] = []
    worst = worst_served = 0.0
    for request in requests:
        golden = rows.golden(request)
        tensors = rows.tensors(golden)
        due, found = expected.scores(tensors), run(tensors)
        difference = float(np.abs(found - due).max())
        if not difference <= tolerance:
            head, place = np.unravel_index(int(np.abs(found - due).argmax()), due.shape)
            raise ExportError(
                f"onnxruntime scores {found[head, place]:.7f} where {expected.by} scores {due[head, place]:.7f} "
                f"({heads[head]} of candidate {place} of request {len(goldens)}); the tolerance is {tolerance:.0e}; "
                "the bundle was not written"
            )
        worst = max(worst, difference)
        if served:
            count = due.shape[1]
            among = served(repeated(bundle.schema, tensors, max(count, candidates)))[:, :count]
            # Not max(): a NaN must count as a difference.
            worst_served = float(np.max([worst_served, np.abs(served(tensors) - due).max(), np.abs(among - due).max()]))
        progress(len(goldens) + 1)
        scores = {head: [float(score) for score in row] for head, row in zip(heads, due, strict=True)}
        goldens.append(golden.model_copy(update={"expected": scores}))
    return Parity(goldens, worst, worst_served)


class BundleRows:
    """Reader of requests' rows, as goldens."""

    def __init__(self, bundle: Bundle) -> None:
        self.schema = bundle.schema
        sides: tuple[RowSide, ...] = ("user", "item")
        self.codecs = {side: RowCodec(bundle.schema, side, bundle.bundle_id) for side in sides}
        self._files = {
            side: RowFile(bundle.path(ROWS[side]), self.codecs[side], bundle.bundle_id) for side in self.codecs
        }

    def golden(self, request: Request) -> Golden:
        """Return the request with its rows, still without scores."""
        checked = parse_request(json.dumps(request).encode(), self.schema)
        user = self._files["user"].raw([checked.user_id])[0]
        wanted = wanted_items(checked, self.codecs["user"].unpack([user]))
        found = zip(wanted, self._files["item"].raw(wanted), strict=True)
        return Golden(
            request=request,
            user=None if user is None else encode_row(user),
            items={item_id: encode_row(row) for item_id, row in found if row is not None},
            expected={},
        )

    def tensors(self, golden: Golden) -> Tensors:
        """Return the graph's input tensors of the request and its rows."""
        return golden_tensors(self.schema, self.codecs["user"], self.codecs["item"], golden).tensors
