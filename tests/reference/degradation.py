"""What a reply declares of a request's rows, in Python: the reference of what the native core declares; and the
tensors of a run that is cut."""

from dataclasses import replace

import numpy as np

from msd.contract.assemble import Rung, Tensors, UserRung, assemble
from msd.contract.request import CheckedRequest
from msd.contract.rows import RowCodec, Rows, has_semantic
from msd.contract.schema import FeatureSchema


def degraded_candidates(request: CheckedRequest, items: Rows) -> dict[str, Rung]:
    """Return the rungs of candidates, by ID. `items` has the rows of `wanted_items`."""
    count = len(request.ids)
    is_encoded = has_semantic(items.records[:count])
    degraded: dict[str, Rung] = {}
    for place in np.flatnonzero(~items.found[:count]).tolist():
        says_nothing = set(request.item_features.get(request.ids[place], {}).values()) <= {None}
        rung: Rung = "prior" if says_nothing else "category_prior"
        degraded[request.ids[place]] = "encoded" if is_encoded[place] else rung
    if items.stale is not None:
        degraded |= {request.ids[place]: "cached" for place in np.flatnonzero(items.stale[:count]).tolist()}
    return degraded


def degraded_user(request: CheckedRequest, user: Rows, items: Rows) -> UserRung | None:
    """Return the user's rung: `cached` also if a row of the history is stale or unavailable."""
    if not user.found[0]:
        return "unknown"
    if user.stale is not None and user.stale[0]:
        return "cached"
    if items.stale is not None and (items.stale | ~items.found)[len(request.ids) :].any():
        return "cached"
    return None


def unknown_history(request: CheckedRequest, items: Rows) -> int:
    """Return how many items of the request's own history have no row."""
    return 0 if request.history is None else int((~items.found[len(request.ids) :]).sum())


def cut(
    schema: FeatureSchema, tensors: Tensors, count: int, codec: RowCodec, request: CheckedRequest, at: float, user: Rows
) -> Tensors:
    """Return the tensors of the first `count` candidates and, behind them, of an unknown one. `codec`: of items."""
    nobody = replace(request, ids=["?"], item_features={}, history=[])
    unknown = assemble(schema, nobody, at, user, codec.unpack([None]))
    return {
        name: np.concatenate([tensor[:count], unknown[name]]) if name.startswith("item_") else tensor
        for name, tensor in tensors.items()
    }
