"""Test rows as an ad server's requests: the row's time, context and history, on the bundle's rows.

Some requests have unknown users and items, or missing parts, so that these cases are proved too.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd.contract.schema import FeatureSchema
from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker.features import Features

Request = dict[str, Any]
_OTHERS = 4
_VARIED = 6


def serving_requests(dataset: Dataset, features: Features, limit: int, seed: int = 0) -> Iterator[Request]:
    """Yield up to `limit` requests as sent, evenly spread over the test rows: each row's item with four others.

    Every sixth varies: an unknown user, an unknown item, an item described by the request, missing context, null
    features, the stored history, a history with unknown IDs.
    """
    rng = np.random.default_rng(seed)
    items = features.item.entities.ids
    for number, row in enumerate(spread(features.of_part(Part.TEST), limit)):
        others = [items[place] for place in rng.choice(len(items), min(_OTHERS, len(items)), replace=False)]
        request = plain_request(dataset, features, row)
        request["candidates"]["id"] += others
        if number % _VARIED == 0:
            _vary(request, features.schema, number // _VARIED)
        yield request


def plain_request(dataset: Dataset, features: Features, row: int) -> Request:
    """Return one row as a request for its own item alone."""
    event = dataset.events.row(row, named=True)
    items = features.item.entities.ids
    return {
        "user_id": event["user_id"],
        "at": float(event["at"]),
        "context": {name: event[name] for name in features.schema.settable["context"]},
        "candidates": {"id": [event["item_id"]]},
        "user": {"history": [items[item] for item in features.history[row].tolist() if item >= 0]},
    }


def spread(rows: NDArray[np.int64], limit: int) -> list[int]:
    """Return up to `limit` of the rows, evenly spread."""
    places = np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(np.int64)
    chosen: list[int] = rows[places].tolist()
    return chosen


def _vary(request: Request, schema: FeatureSchema, kind: int) -> None:
    ids = request["candidates"]["id"]
    match kind % 7:
        case 0:
            request["user_id"] = "a user that nobody knows"
        case 1:
            ids[-1] = "an item that nobody knows"
        case 2:
            ids[-1] = "an item that the request describes"
            described = {name: _sample(field) for name, field in schema.settable["item"].items()}
            # No text: its vector may be ready for this request or only for the next.
            request["items"] = {ids[-1]: {"features": described}}
        case 3:
            del request["context"]
        case 4:
            request["user"]["features"] = dict.fromkeys(schema.settable["user"])
            request["items"] = {ids[0]: {"features": dict.fromkeys(schema.settable["item"])}}
        case 5:
            del request["user"]
        case 6:
            request["user"]["history"] = ["an item that nobody knows", *request["user"]["history"], ids[0]]


def _sample(field: Any) -> Any:  # noqa: ANN401 - a value of the field's own type
    if field.kind == "numeric":
        return field.mean
    value = field.vocabulary[0] if field.vocabulary else "a value"
    return [value, "a value that nobody knows"] if field.kind == "bag" else value
