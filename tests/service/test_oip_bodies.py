"""Bodies as no well-behaved client sends them: each a refusal that names what is at fault, none a failure."""

import json
import struct
from collections.abc import Iterator
from typing import Any
from unittest.mock import ANY

import httpx
import pytest

from tests.service.live import LiveService

PATH = "/v2/models/msd/infer"
LENGTH = "Inference-Header-Content-Length"
USER = {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["u1"]}
ADS = {"name": "candidates.id", "shape": [2], "datatype": "BYTES", "data": ["i1", "i2"]}
BINARY_ADS = {**{k: v for k, v in ADS.items() if k != "data"}, "parameters": {"binary_data_size": 12}}
EXPLAINED = '{"user_id": "u1", "candidates": {"id": ["i1"]}, "explain": true}'
AD_BYTES = b"\x02\x00\x00\x00i1\x02\x00\x00\x00i2"


@pytest.fixture(scope="module")
def client(service: LiveService) -> Iterator[httpx.Client]:
    with service.client() as kept:
        yield kept


def send(client: httpx.Client, body: bytes, length: object = None) -> httpx.Response:
    """One request, with the header where a length is given."""
    return client.post(
        PATH, content=body, headers={"content-type": "application/json"} if length is None else {LENGTH: str(length)}
    )


@pytest.mark.parametrize(
    "types", [{"origin": "http://x"}, {"content-type": "text/plain"}, {"content-type": "multipart/form-data"}]
)
def test_types_that_a_web_page_may_post_anywhere_are_refused(client: httpx.Client, types: dict[str, str]) -> None:
    answer = client.post(PATH, content=of(USER, ADS), headers=types)

    assert (answer.status_code, answer.json()["error"]) == (415, ANY)
    for good in ({"content-type": "application/octet-stream"}, {LENGTH: str(len(of(USER, ADS)))}):
        assert client.post(PATH, content=of(USER, ADS), headers=good).status_code == 200


def of(*inputs: dict[str, Any], **more: object) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def bid(**changes: object) -> bytes:
    return of(USER, ADS, {"name": "candidates.bid", "shape": [2], "datatype": "FP32", "data": [1, 2.5], **changes})


def binary(rest: bytes = AD_BYTES, **changes: object) -> tuple[bytes, int]:
    """A request whose ids come behind the JSON, and that one's length."""
    head = of(USER, {**BINARY_ADS, **changes})
    return head + rest, len(head)


def test_json_and_binary_bodies_score_alike(client: httpx.Client) -> None:
    plain = send(client, bid(), None).json()
    with_bytes = send(client, *binary()).json()

    assert plain["outputs"][1] == with_bytes["outputs"][1]
    assert with_bytes["outputs"][0]["data"] == ["i1", "i2"]
    assert send(client, of(USER, ADS), len(of(USER, ADS))).status_code == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON"),
        (b"[]", "should be an object"),
        (b"\xff{}", "the body is not UTF-8"),
        (b"{}", "inputs: is missing"),
        (b'{"inputs": [], "inputs": []}', "inputs: a JSON key occurs twice"),
        (of(), "inputs: should have at least 1 item"),
        (of(USER, ADS, model="x"), "model: is not known here"),
        (of(USER, ADS, ADS), "candidates.id: is given twice"),
        (
            b'{"inputs": [' + b"{}," * 300_000 + b"{}]}",
            "the body has more than 20,000 keys and values",
        ),
        (of(USER, {**ADS, "parameters": {f"k{n}": 1 for n in range(5_000)}}), "inputs.1.parameters: has 5000 keys"),
        (of(USER, {**ADS, "shape": [-1]}), "inputs.1.shape.0: should be greater than or equal to 0"),
        (of(USER, {**ADS, "shape": [3]}), "candidates.id: data has 2 values, and the shape [3] is of 3"),
        (of(USER, {**ADS, "shape": [2**31]}), "candidates.id: 2147483648 candidates; one request may have 2000"),
        (of(USER, {**ADS, "shape": [0], "data": []}), "candidates.id: should have at least 1 item"),
        (of(USER, {**ADS, "data": [["i1", "i2"]], "shape": [1]}), "candidates.id: value 0 is not a string"),
        (of(USER, {**ADS, "data": ["i1", "\ud800"]}), "candidates.id: a value has half of a surrogate pair"),
        (of(USER, {k: v for k, v in ADS.items() if k != "data"}), "candidates.id: must have either data or"),
        (of(USER, {**ADS, **BINARY_ADS}), "candidates.id: must have either data or"),
        (of(USER, BINARY_ADS), f"candidates.id: has binary_data_size, which needs the header {LENGTH}"),
        (bid(data=[1, True]), "candidates.bid: value 1 is not a number"),
        (bid(data=[1, 1e39]), "candidates.bid: a value is beyond what FP32 holds"),
        (bid(data=[1, 2**31], datatype="INT32"), "candidates.bid: a value is beyond what INT32 holds"),
        (bid(data=[1, 1.5], datatype="INT64"), "candidates.bid: value 1 is not a whole number"),
        (bid(datatype="FP16"), "candidates.bid: the datatype is 'FP16'; it has to be FP32 or FP64 or"),
        (bid(data=[1, float("nan")]), "NaN is not JSON"),
        (of({"name": "request", "shape": [1], "datatype": "BYTES", "data": ["x"]}), "request: the body is not JSON"),
        (
            of({"name": "request", "shape": [1], "datatype": "BYTES", "data": ['{"user_id": 1}']}),
            "request.user_id: should be a valid string",
        ),
        (
            of({"name": "request", "shape": [1], "datatype": "BYTES", "data": [EXPLAINED]}),
            "request.explain: is not available as tensors",
        ),
    ],
)
def test_invalid_json_tensors_are_refused(client: httpx.Client, body: bytes, message: str) -> None:
    answer = send(client, body)

    assert answer.status_code in (400, 413)
    assert set(answer.json()) == {"error"}
    assert answer.json()["error"].startswith(message)


NUMBERS = of(
    USER, ADS, {"name": "candidates.bid", "shape": [2], "datatype": "FP64", "parameters": {"binary_data_size": 8}}
)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((of(USER, ADS), 10**6), f"{LENGTH}: '1000000' is not a number of bytes within the body"),
        ((of(USER, ADS), "9" * 5000), f"{LENGTH}: '9999"),
        ((of(USER, ADS), -1), f"{LENGTH}: '-1' is not a number"),
        ((of(USER, ADS), 0), "the body is not JSON"),
        (binary(AD_BYTES + b"x"), f"{LENGTH}: 13 bytes follow the JSON, and the inputs account for 12"),
        (binary(AD_BYTES[:-1]), "candidates.id: binary_data_size is 12, and 11 bytes of the body are left for it"),
        (binary(shape=[3]), "candidates.id: its 12 bytes are not 3 strings"),
        (
            (NUMBERS + struct.pack("<2f", 1, 2), len(NUMBERS)),
            "candidates.bid: has 8 bytes; 2 values of FP64 are 16",
        ),
        (binary(b"\xff\xff\xff\xffi1\x02\x00\x00\x00i2"), "candidates.id: its 12 bytes are not 2 strings"),
        (binary(b"\x02\x00\x00\x00i1\x02\x00\x00\x00\xff\xfe"), "candidates.id: value 1 is not UTF-8"),
    ],
)
def test_invalid_binary_tensors_are_refused(client: httpx.Client, given: tuple[bytes, object], message: str) -> None:
    answer = send(client, *given)

    assert answer.status_code == 400
    assert answer.json()["error"].startswith(message)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", PATH, 405),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/repository", 404),
        ("POST", "/v2/models/x/infer", 404),
    ],
)
def test_other_routes_are_refused_in_the_same_form(client: httpx.Client, method: str, path: str, status: int) -> None:
    answer = client.request(method, path, headers={"content-type": "application/json"})

    assert answer.status_code == status
    assert isinstance(answer.json()["error"], str)


def test_nothing_of_this_failed_inside(client: httpx.Client, service: LiveService) -> None:
    assert send(client, of(USER, ADS)).status_code == 200
    assert not [line for line in service.log() if line["level"] == "error"]
