"""NVIDIA's own client against a running service: metadata, and scores equal to those of /v1/score."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from msd.contract.bundle import Bundle
from service.deployment.bundle_folder import EXPERIMENT
from tests.bundles.factory import AT, golden_requests
from tests.service.bundle_folders import two_bundles
from tests.service.live import LiveService, live_service, wait_until
from tests.service.request_log.log import awaited, connected

IDS = [f"i{number}" for number in range(200)]
BIDS = np.linspace(0.1, 3.0, len(IDS))


@pytest.fixture
def client(service: LiveService) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{service.port}") as kept:
        yield kept


def texts(*values: str) -> "np.ndarray[Any, Any]":
    """BYTES [n]."""
    return np.array([value.encode() for value in values], np.object_)


def tensors(values: "Mapping[str, np.ndarray[Any, Any]]", *, binary: bool) -> list[triton.InferInput]:
    """The client's inputs, by their names."""
    names = {"O": "BYTES", "f": "FP32", "d": "FP64", "l": "INT64"}
    made = []
    for name, value in values.items():
        made.append(triton.InferInput(name, list(value.shape), names[value.dtype.char]))
        made[-1].set_data_from_numpy(value, binary_data=binary)
    return made


def everything() -> "dict[str, np.ndarray[Any, Any]]":
    return {
        "user_id": texts("u1"),
        "at": np.array([AT]),
        "candidates.id": texts(*IDS[:-1], "néw ad"),
        "candidates.bid": BIDS,
        "context.hour": np.array([13]),
        "context.device": texts("ios"),
        "context.temperature": np.array([21.5], np.float32),
        "user.features.age": np.array([44]),
        "user.features.interests": texts("cars", "food"),
        "user.history": texts("i8", "i9"),
        "items": texts('{"néw ad": {"features": {"category": "games", "price": 9.5}}}'),
    }


def as_json() -> dict[str, Any]:
    return {
        "user_id": "u1",
        "at": AT,
        "context": {"hour": 13, "device": "ios", "temperature": 21.5},
        "candidates": {"id": [*IDS[:-1], "néw ad"], "bid": BIDS.tolist()},
        "user": {"features": {"age": 44, "interests": ["cars", "food"]}, "history": ["i8", "i9"]},
        "items": {"néw ad": {"features": {"category": "games", "price": 9.5}}},
    }


def is_equal(result: triton.InferResult, reply: Mapping[str, Any]) -> bool:
    """To the bit, with the JSON of /v1/score, which gives each number's shortest form."""
    columns = reply["candidates"]
    given: list[tuple[bytes, bytes]] = [
        (result.as_numpy("pctr").tobytes(), np.array(columns["pctr"], np.float32).tobytes()),
        (result.as_numpy("ecpm").tobytes(), np.array(columns["ecpm"], np.float64).tobytes()),
    ]
    ids = [one.decode() if isinstance(one, bytes) else one for one in result.as_numpy("id").tolist()]
    return ids == columns["id"] and all(ours == theirs for ours, theirs in given)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("top_k", [None, 3])
def test_scores_are_those_of_v1_to_the_bit(
    client: triton.InferenceServerClient, service: LiveService, binary: bool, top_k: int | None
) -> None:
    values, document = everything(), as_json()
    if top_k is not None:
        values["top_k"], document["top_k"] = np.array([top_k]), top_k
    outputs = None if binary else [triton.InferRequestedOutput(name, False) for name in ("id", "pctr", "ecpm")]

    result = client.infer("msd", tensors(values, binary=binary), outputs=outputs, request_id="r-1")

    reply = service.score(document).json()
    assert is_equal(result, reply)
    answer = result.get_response()
    assert answer["id"] == "r-1"
    assert (answer["model_name"], answer["model_version"]) == ("msd", "test-0")
    assert answer["parameters"] == {"degraded_candidates": '{"néw ad":"category_prior"}'}
    assert reply["degraded"] == {"candidates": {"néw ad": "category_prior"}}


def test_request_may_come_as_json_in_one_tensor(client: triton.InferenceServerClient, service: LiveService) -> None:
    for document in golden_requests():
        result = client.infer("msd", tensors({"request": texts(json.dumps(document))}, binary=True), "test-0")
        reply = service.score(document).json()
        columns, answer = reply["candidates"], result.get_response()
        assert result.as_numpy("pctr").tobytes() == np.array(columns["pctr"], np.float32).tobytes()
        assert (result.as_numpy("ecpm") is None) == (None in columns["ecpm"])
        assert answer.get("parameters", {}).get("degraded_user") == reply.get("degraded", {}).get("user")


def test_server_and_model_metadata_are_complete(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("msd")
    assert client.is_model_ready("msd", "test-0")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("msd")
    assert metadata["versions"] == ["test-0"]
    assert metadata == client.get_model_metadata("msd", "test-0")
    inputs = {one.pop("name"): one for one in metadata["inputs"]}
    assert inputs["candidates.id"] == {"datatype": "BYTES", "shape": [-1], "parameters": {"optional": False}}
    assert inputs["context.temperature"] == {"datatype": "FP32", "shape": [1], "parameters": {"optional": True}}
    assert inputs["user.features.interests"]["shape"] == [-1]
    assert set(everything()) < set(inputs)
    assert [(one["name"], one["datatype"]) for one in metadata["outputs"]] == [
        ("id", "BYTES"),
        ("pctr", "FP32"),
        ("pcvr", "FP32"),
        ("ecpm", "FP64"),
    ]


@pytest.mark.parametrize(
    ("changes", "options", "status", "message"),
    [
        ({"user_id": None}, {}, "400", "user_id: missing input"),
        ({"user": texts("u1")}, {}, "400", "user: unknown input; expected user_id, candidates.id"),
        ({"context.weather": texts("hail")}, {}, "400", "context.weather: unknown input"),
        ({"user_id": np.array([7])}, {}, "400", "user_id: the datatype is 'INT64'; it has to be BYTES"),
        ({"context.temperature": texts("warm")}, {}, "400", "context.temperature: the datatype is 'BYTES'"),
        ({"user_id": texts("u1", "u2")}, {}, "400", "user_id: the shape is [2]; it has to be [1]"),
        ({"candidates.id": texts(*"ab").reshape(1, 2)}, {}, "400", "candidates.id: the shape is [1, 2]"),
        ({"candidates.bid": np.ones(3)}, {}, "400", "candidates.bid: has 3 entries, and candidates.id has 200"),
        ({"candidates.bid": np.full(200, np.nan)}, {}, "400", "candidates.bid: value 0 is nan"),
        ({"candidates.bid": np.full(200, -1.0)}, {}, "400", "candidates.bid.0: should be greater than"),
        ({"candidates.id": texts(*["i1"] * 2001)}, {}, "413", "candidates.id: 2001 candidates; one request may have"),
        ({"user.history": texts(*["i1"] * 1001)}, {}, "400", "user.history: has 1001 values"),
        ({"items": texts("{")}, {}, "400", "items: is not JSON"),
        ({"items": texts('{}, "top_k": 1')}, {}, "400", "items: is not JSON"),
        ({"items": texts('{"other": {}}')}, {}, "400", "items.other: describes an item that is not a candidate"),
        ({"request": texts("{}")}, {}, "400", "request: replaces all other inputs, but 'user_id' is given too"),
        ({}, {"outputs": [triton.InferRequestedOutput("ctr")]}, "400", "ctr: unknown output; expected id"),
        ({"candidates.bid": None}, {"outputs": [triton.InferRequestedOutput("ecpm")]}, "400", "ecpm: needs a bid"),
        ({}, {"sequence_id": 4}, "400", "parameters.sequence_id: is not known here"),
        ({}, {"timeout": 10**9}, "400", "parameters.timeout: 1000000000 µs is more than"),
        ({}, {"timeout": 1}, "504", "deadline exceeded"),
        ({}, {"headers": {"X-Deadline-Ms": "soon"}}, "400", "X-Deadline-Ms: 'soon' is not a whole number"),
        ({}, {"request_compression_algorithm": "gzip"}, "415", "compressed bodies are not supported"),
        ({}, {"model_name": "other"}, "404", "there is no model 'other'; the one here is 'msd'"),
        ({}, {"model_version": "9"}, "404", "version '9' is not served; there are: test-0"),
    ],
)
def test_invalid_inference_is_refused(
    client: triton.InferenceServerClient, changes: dict[str, Any], options: dict[str, Any], status: str, message: str
) -> None:
    values = {name: value for name, value in {**everything(), **changes}.items() if value is not None}

    with pytest.raises(InferenceServerException) as refused:
        client.infer(**{"model_name": "msd", "inputs": tensors(values, binary=True), **options})

    assert refused.value.status() == status
    assert str(refused.value.message()).startswith(message)


ARMS = {"test-0": "champion", "test-1": "next"}
FORTY = IDS[:40]


class Split(NamedTuple):
    """A service of two arms, and its log."""

    service: LiveService
    log: Path


@pytest.fixture(scope="module")
def split(bundle: Bundle, other_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Split]:
    folder = tmp_path_factory.mktemp("split")
    bundles = two_bundles(folder / "bundles", bundle, other_bundle)
    arms = [{"name": "champion", "bundle": "current", "weight": 1}, {"name": "next", "bundle": "b", "weight": 1}]
    (bundles / EXPERIMENT).write_text(json.dumps({"salt": "s", "arms": arms}))
    settings: dict[str, Any] = {"log_dir": folder / "log", "log_sample": 1, "LOG_FLUSH_S": 0.2}
    with live_service(bundles, folder, **settings) as service:
        connected(service)
        yield Split(service, folder / "log")


def asked(client: httpx.Client, user: str, version: str = "", **more: object) -> httpx.Response:
    """Scores as tensors, by a version if one is named."""
    inputs = [
        {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": [user]},
        {"name": "at", "shape": [1], "datatype": "FP64", "data": [AT]},
        {"name": "candidates.id", "shape": [len(FORTY)], "datatype": "BYTES", "data": FORTY},
    ]
    path = f"/v2/models/msd{version and f'/versions/{version}'}/infer"
    return client.post(path, json={"inputs": inputs, **more})


def test_each_user_is_scored_by_the_version_of_their_arm(split: Split) -> None:
    seen = set()
    with split.service.client() as client:
        assert client.get("/v2/models/msd").json()["versions"] == list(ARMS)
        for user in (f"u{number}" for number in range(12)):
            answer = asked(client, user).json()
            own = answer["model_version"]
            (other,) = set(ARMS) - {own}
            refused = asked(client, user, other)

            assert answer["parameters"]["arm"] == ARMS[own]
            assert asked(client, user, own).json()["outputs"] == answer["outputs"]
            assert (refused.status_code, refused.json()["error"]) == (
                404,
                f"the running experiment scores this user with version {own!r} alone",
            )
            seen.add(own)
    assert seen == set(ARMS)


def test_tensors_are_counted_and_logged_as_their_request(split: Split) -> None:
    ok = 'msd_requests_total{code="200"}'
    wait_until(lambda: split.service.metric("msd_queued_rows") == 0)  # earlier requests are counted
    before = split.service.metric(ok)
    with split.service.client() as client:
        answer = asked(client, "u3", id="tensors-1")
        assert client.post("/v2/models/msd/infer", json={}).status_code == 400

    record = awaited(split.log, ["tensors-1"])["tensors-1"]

    wait_until(lambda: split.service.metric("msd_queued_rows") == 0)
    assert split.service.metric(ok) == before + 1
    assert answer.headers["x-request-id"] == answer.json()["id"] == "tensors-1"
    assert answer.headers["server-timing"].startswith("parse;dur=")
    assert json.loads(record.request) == {"user_id": "u3", "at": AT, "candidates": {"id": FORTY}}
    pctr = next(one["data"] for one in answer.json()["outputs"] if one["name"] == "pctr")
    assert record.scores[record.heads.index("pctr")].tobytes() == np.array(pctr, np.float32).tobytes()
