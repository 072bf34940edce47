"""Outside of the queue, requests get the replies of services, byte for byte; whatever goes wrong is raised."""

import gc
import json
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from msd.contract.bundle import Bundle
from msd.contract.rows import ROW_SIDES
from msd.contract.tensors import Tensors
from native.offline import OfflineScorer
from service.scoring.model import Model, load_model
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.bundles.factory import AT, golden_requests
from tests.service.live import LiveService

Scores = Mapping[str, NDArray[np.float32]]
ASKED = json.dumps(golden_requests()[0]).encode()


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Model:
    return load_model(bundle, Settings(bundle=bundle.folder), Metrics())


def scorer_of(model: Model, run: Callable[[Tensors], Scores] | None = None, has_rows: bool = True) -> OfflineScorer:
    """With the bundle's own rows. `run`: in place of the graph's."""
    native, rows = model.native, model.native.rows
    assert rows is not None
    form = native.schema, native.served, model.bundle.manifest.heads
    graph = model.runtime.native if run is None else None
    own = (rows.users, rows.items) if has_rows else None
    return OfflineScorer(model.schema, *form, graph, run or model.runtime.run, 256, own)


def test_replies_are_those_of_a_service(service: LiveService, model: Model) -> None:
    by_core, by_python = scorer_of(model), scorer_of(model, model.runtime.run)
    with service.client() as client:
        for number, request in enumerate(golden_requests()):
            body, request_id = json.dumps(request).encode(), f"r{number}"
            headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
            due = client.post("/v1/score", content=body, headers=headers).content
            assert by_core.score(body, request_id).reply == by_python.score(body, request_id).reply == due


def test_first_candidates_are_run_alone(model: Model) -> None:
    whole, part = scorer_of(model).score(ASKED), scorer_of(model).score(ASKED, most=2)
    unknown = scorer_of(model).score(ASKED.replace(b'"i3"', b'"nothing"')).scores["pctr"][2]

    assert part.rungs == {"i3": "prior", "i250": "prior"}
    assert part.scores["pctr"].tolist() == [*whole.scores["pctr"][:2].tolist(), unknown, unknown]


def test_candidate_without_a_finite_score_is_scored_as_without_a_row(model: Model) -> None:
    runs = 0

    def run(tensors: Tensors) -> Scores:
        nonlocal runs
        scores = {head: column.copy() for head, column in model.runtime.run(tensors).items()}
        runs += 1
        if runs == 1:
            scores["pcvr"][2] = np.inf
        return scores

    whole, found = scorer_of(model).score(ASKED), scorer_of(model, run).score(ASKED)
    unknown = scorer_of(model).score(ASKED.replace(b'"i3"', b'"nothing"')).scores["pctr"][2]

    assert (runs, found.rungs) == (2, {"i3": "prior"})
    assert found.scores["pctr"].tolist() == [*whole.scores["pctr"][:2].tolist(), unknown, whole.scores["pctr"][3]]


def test_later_place_without_a_finite_score_is_scored_as_without_a_row(model: Model) -> None:
    """Other candidates, and the first place, keep their scores."""
    ids = ["i1", "i2", "i3"]
    body = {"user_id": "u1", "at": AT, "candidates": {"id": ids, "bid": [1.0] * 3}}
    paged = json.dumps(body | {"page": 3, "slot": 1}).encode()
    whole = json.loads(scorer_of(model).score(paged).reply)
    wrong = whole["page"]["id"][1]
    unknown = json.dumps(body | {"slot": 2, "candidates": {"id": ["nothing"], "bid": [1.0]}}).encode()
    without_row = json.loads(scorer_of(model).score(unknown).reply)["candidates"]
    rows: list[NDArray[Any]] = []

    def run(tensors: Tensors) -> Scores:
        scores = {head: column.copy() for head, column in model.runtime.run(tensors).items()}
        if not rows:
            rows.extend(tensors["item_dense"].copy())
        elif (tensors["item_dense"][0] == rows[ids.index(wrong)]).all():
            scores["pcvr"][0] = np.inf
        return scores

    found = scorer_of(model, run).score(paged)
    reply = json.loads(found.reply)

    assert (reply["candidates"], reply["page"]["id"]) == (whole["candidates"], whole["page"]["id"])
    assert reply["degraded"]["candidates"] == found.rungs == {wrong: "prior"}
    for column in ("pctr", "pcvr", "ecpm"):
        due, own = whole["page"][column], without_row[column][0]
        assert reply["page"][column] == [due[0], pytest.approx(own, rel=1e-6), due[2]] != due


def not_finite(tensors: Tensors) -> Scores:
    return {head: np.full(len(tensors["item_dense"]), np.nan, np.float32) for head in ("pctr", "pcvr")}


def failing(tensors: Tensors) -> Scores:
    raise ZeroDivisionError("broken")


@pytest.mark.parametrize(
    ("body", "given", "reason"),
    [
        (b"{}", {}, "the core refuses the request"),
        (ASKED, {"has_rows": False}, "the core lacks rows of the request"),
        (ASKED, {"run": not_finite}, "a score is not finite"),
    ],
)
def test_request_without_scores_is_an_error(body: bytes, given: dict[str, Any], reason: str, model: Model) -> None:
    with pytest.raises(ValueError, match=reason):
        scorer_of(model, **given).score(body)


def test_errors_of_python_are_raised_as_they_are(model: Model) -> None:
    scorer = scorer_of(model, failing)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="broken"):
            scorer.score(ASKED)


def test_wrong_rows_are_refused(model: Model) -> None:
    user, items = (model.codecs[side].unpack([None]) for side in ROW_SIDES)
    with pytest.raises(RuntimeError, match="the native core lacks rows that it was given"):
        scorer_of(model, has_rows=False).score(ASKED, given=(AT, user, items))


def test_scorer_is_freed_with_its_model(model: Model) -> None:
    def run(tensors: Tensors) -> Scores:
        return model.runtime.run(tensors)

    scorer, freed = scorer_of(model, run), weakref.ref(run)
    scorer.score(ASKED)
    del scorer, run
    gc.collect()
    assert freed() is None
