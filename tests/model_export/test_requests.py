"""Requests made of test rows are valid, repeatable, and leave out or make up what a service has to cope with."""

import json
from typing import Any

import pytest

from model_export.parity import serving_requests
from msd.contract.request import parse_request
from msd.dataset.split import Part
from tests.model_export.conftest import Exported

Requests = list[dict[str, Any]]


@pytest.fixture(scope="module")
def requests(exported: Exported) -> Requests:
    return list(serving_requests(exported.inputs.dataset, exported.features, 10_000))


def test_each_test_row_is_a_request(exported: Exported, requests: Requests) -> None:
    dataset, features = exported.inputs.dataset, exported.features
    rows = features.of_part(Part.TEST)
    assert len(requests) == len(rows)
    items = features.item.entities.ids
    for number, (request, row) in enumerate(zip(requests, rows.tolist(), strict=True)):
        event = dataset.events.row(row, named=True)
        assert request["at"] == event["at"]
        assert request["candidates"]["id"][0] == event["item_id"]
        assert len(request["candidates"]["id"]) == 5
        if number % 6:
            assert request["user_id"] == event["user_id"]
            assert request["context"] == {"device": event["device"], "hour": event["hour"]}
            held = [items[place] for place in features.history[row].tolist() if place >= 0]
            assert request["user"] == {"history": held}


@pytest.mark.parametrize("name", ["exported", "plain"])
def test_requests_are_valid(name: str, request: pytest.FixtureRequest) -> None:
    exported: Exported = request.getfixturevalue(name)
    for asked in serving_requests(exported.inputs.dataset, exported.features, 10_000):
        checked = parse_request(json.dumps(asked).encode(), exported.bundle.schema)
        assert checked.ids == asked["candidates"]["id"]


def test_requests_cover_missing_and_unknown_values(exported: Exported, requests: Requests) -> None:
    schema, items = exported.bundle.schema, exported.features.item.entities.place
    users = exported.features.user.entities.place
    checked = [parse_request(json.dumps(asked).encode(), schema) for asked in requests]
    cases = {
        "unknown user": any(one.user_id not in users for one in checked),
        "unknown item": any(one.ids[-1] not in items and not one.item_features for one in checked),
        "described item": any(one.item_features.get(one.ids[-1], {}).get("price") for one in checked),
        "no context": any(not one.context for one in checked),
        "missing user features": any(one.user_features == {"age": None, "city": None} for one in checked),
        "missing item features": any(None in one.item_features.get(one.ids[0], {}).values() for one in checked),
        "stored history": any(one.history is None for one in checked),
        "unknown id in a history": any(one.history and one.history[0] not in items for one in checked),
    }
    assert not [name for name, found in cases.items() if not found]


def test_requests_are_deterministic_and_spread(exported: Exported, requests: Requests) -> None:
    again = list(serving_requests(exported.inputs.dataset, exported.features, 10_000))
    assert again == requests
    few = list(serving_requests(exported.inputs.dataset, exported.features, 7))
    assert len(few) == 7
    assert (few[0]["at"], few[-1]["at"]) == (requests[0]["at"], requests[-1]["at"])
