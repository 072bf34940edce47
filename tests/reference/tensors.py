"""From a request and its rows to the ranker's tensors, and what of them was degraded."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.reference.request import Request, Seen
from tests.reference.schema import Schema, Tensors, Value, encode, encode_counts, encode_impressions, width

_HAS_VECTOR = 1


class Rows(NamedTuple):
    """Rows [n] as numpy records (docs/bundles.md), whether each was found, and whether it is the last known one, None
    if the store answered. An absent row is the record of missing values."""

    records: Any
    found: NDArray[np.bool_]
    stale: NDArray[np.bool_] | None = None


def history_of(request: Request, stored: list[Seen]) -> list[Seen]:
    """Return the request's history, or the stored one."""
    return stored if request.history is None else request.history


def assemble(schema: Schema, request: Request, at: float, user: Rows, items: Rows, stored: list[Seen]) -> Tensors:
    """Return the tensors of a request at a time (Unix s). `items`: rows of candidates, then of the history."""
    count, history = len(request.ids), history_of(request, stored)
    context = {**schema.constants(request.slot), **request.context}
    tensors: Tensors = {
        "context_categorical": _encoded(schema.categories("context"), context, np.int32),
        "context_dense": _encoded(schema.numbers("context"), context, np.float32),
    }
    tensors |= _entities(schema, "user", user.records, at, [request.user])
    own = [request.items.get(item, {}) for item in request.ids]
    tensors |= _entities(schema, "item", items.records[:count], at, own)
    # What has no row does not count; of the rest, the latest do.
    kept = [place for place in range(len(history)) if items.found[count + place]][-schema.length :]
    tensors |= _history(schema, items.records[count:][kept], [history[place] for place in kept], at)
    return {name: tensor for name, tensor in tensors.items() if tensor.shape[-1]}


def _encoded(fields: list[Any], values: Mapping[str, Value], dtype: type) -> NDArray[Any]:
    columns = [column for field in fields for column in encode(field, values.get(field["name"]))]
    return np.array([columns], dtype)


def _entities(schema: Schema, side: str, records: Any, at: float, given: list[dict[str, Value]]) -> Tensors:  # noqa: ANN401
    """Return one side's tensors [n, …]: values of the row, those of the request over them; counts; the vector."""
    categorical, numeric = records["categorical"].copy(), records["numeric"].copy()
    for place, values in enumerate(given):
        for name, value in values.items():
            field = schema.settable(side)[name]
            target = numeric if field["kind"] == "numeric" else categorical
            target[place, schema.columns(field)] = encode(field, value)
    dense = [row.tolist() for row in numeric]
    state, semantic = schema.only(side, "state"), schema.only(side, "semantic")
    for row, record in zip(dense, records, strict=True):
        if state is not None:
            row += _counts(state, record, at)
        if semantic is not None:
            row.append(float(record["flags"] & _HAS_VECTOR))
    return {
        f"{side}_categorical": categorical,
        f"{side}_dense": np.array(dense, np.float32).reshape(len(records), -1),
        f"{side}_semantic": records["semantic"].astype(np.float32),
    }


def _counts(state: Mapping[str, Any], record: Any, at: float) -> list[float]:  # noqa: ANN401
    return encode_counts(state, float(record["impressions"]), float(record["clicks"]), float(record["as_of"]), at)


def _history(schema: Schema, records: Any, history: list[Seen], at: float) -> Tensors:  # noqa: ANN401
    """Return the tensors of a history, padded at its end."""
    length, state = schema.length, schema.only("item", "state")
    shapes = {
        "history_categorical": ((1, length, sum(map(width, schema.categories("item")))), np.int32),
        "history_semantic": ((1, length, (schema.only("item", "semantic") or {"dim": 0})["dim"]), np.float32),
        "history_mask": ((1, length), np.float32),
        "history_outcomes": ((1, length, 4), np.float32),
    }
    tensors: Tensors = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
    for place, (record, seen) in enumerate(zip(records, history, strict=True)):
        tensors["history_categorical"][0, place] = record["categorical"]
        tensors["history_semantic"][0, place] = record["semantic"]
        tensors["history_mask"][0, place] = seen.clicked > 0
        odds = 0.0 if state is None else _counts(state, record, at)[0]
        tensors["history_outcomes"][0, place] = [*encode_impressions(seen.shown, seen.clicked, at - seen.at), odds]
    return tensors


def cut(schema: Schema, request: Request, at: float, user: Rows, items: Rows, count: int, missing: Any) -> Tensors:  # noqa: ANN401
    """Return the candidates' tensors of the first `count` and, behind them, of an unknown one, whose row is `missing`
    [1]."""
    rows = Rows(np.concatenate([items.records[:count], missing]), np.append(items.found[:count], False))
    first = request._replace(ids=[*request.ids[:count], ""], history=[])
    tensors = assemble(schema, first, at, user, rows, [])
    return {name: tensor for name, tensor in tensors.items() if name.startswith("item_")}


def degraded_candidates(request: Request, items: Rows) -> dict[str, str]:
    """Return what candidates were scored from, by ID, if not from their own fresh rows."""
    degraded = {}
    for place, item in enumerate(request.ids):
        if not items.found[place]:
            is_described = any(value is not None for value in request.items.get(item, {}).values())
            has_vector = items.records["flags"][place] & _HAS_VECTOR
            degraded[item] = "encoded" if has_vector else "category_prior" if is_described else "prior"
    if items.stale is not None:
        degraded |= {item: "cached" for place, item in enumerate(request.ids) if items.stale[place]}
    return degraded


def degraded_user(request: Request, user: Rows, items: Rows) -> str | None:
    """Return what the user was scored from; `cached` also if a row of the history is stale or unavailable."""
    if not user.found[0]:
        return "unknown"
    is_cached = user.stale is not None and user.stale[0]
    if items.stale is not None:
        is_cached |= (items.stale | ~items.found)[len(request.ids) :].any()
    return "cached" if is_cached else None


def unknown_history(request: Request, items: Rows) -> int:
    """Return how many items of the request's own history have no row."""
    return 0 if request.history is None else int((~items.found[len(request.ids) :]).sum())
