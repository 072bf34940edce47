"""Brownout: the lean graph's scores, natively and in Python; what is never lean; lean graphs that differ from the
manifest."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.bundle import GOLDENS, LEAN_RANKER, RANKER, Bundle, open_bundle
from msd.contract.errors import BundleError
from msd.contract.golden import Golden, read_goldens
from operations.replay.log import replay_log
from service.deployment.proof import Pace, prove
from service.errors import Overloaded
from service.request_log.files import log_files, read_requests
from service.scoring.admission import Admission, Brownout, Load
from service.scoring.job import load_of
from service.scoring.model import load_model
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.bundles.factory import AT, build_bundle, golden_requests, reseal
from tests.bundles.ranker_graph import Recipe
from tests.service.faults import ModelRuns
from tests.service.live import LiveService, live_service, wait_until
from tests.service.test_admission import admitted

ID = {"X-Request-Id": "fixed"}
# Of the large golden, whose full run is learned to take this long a candidate: far more than there is time for.
_SLOW_S, _HURRY_MS = 0.005, "300"
WIDE = golden_requests()[-1]


@pytest.fixture(scope="module")
def lean_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a lean graph; nobody changes it."""
    return build_bundle(tmp_path_factory.mktemp("bundles") / "lean", Recipe(lean=True))


class Hurried:
    """A service whose full model is known to be too slow for hurried requests of 200 candidates."""

    def __init__(self, service: LiveService, client: httpx.Client, runs: ModelRuns) -> None:
        self.service, self.client = service, client
        self._runs = runs

    def ask(self, document: dict[str, Any], path: str = "/v1/score") -> httpx.Response:
        """The answer to a request without the time for the full model, after this has shown how slow it is."""
        self._runs.slow_down(_SLOW_S)
        assert self.client.post("/v1/score", json=WIDE).status_code == 200
        self._runs.slow_down(0)
        return self.client.post(path, json=document, headers={"X-Deadline-Ms": _HURRY_MS})


@pytest.fixture(scope="module", params=["native", "python"])
def hurried(
    request: pytest.FixtureRequest, lean_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hurried]:
    folder = tmp_path_factory.mktemp("lean")
    runs = ModelRuns(folder)
    settings: dict[str, Any] = {"lean": "on", "log_dir": folder / "log", "log_sample": 1, "LOG_FLUSH_S": 0.1}
    native = "on" if request.param == "native" else "off"
    with (
        live_service(lean_bundle.folder, folder, prepare=runs.obey, native=native, **settings) as service,
        service.client(headers=ID) as client,
    ):
        yield Hurried(service, client, runs)


def wide_golden(bundle: Bundle) -> Golden:
    return next(golden for golden in read_goldens(bundle.path(GOLDENS)) if golden.request == WIDE)


def test_lean_graph_scores_what_the_full_one_has_no_time_for(hurried: Hurried, lean_bundle: Bundle) -> None:
    answer = hurried.ask(WIDE)

    assert answer.status_code == 200, answer.text
    reply, golden = answer.json(), wide_golden(lean_bundle)
    assert reply["degraded"] == {"model": "lean"}
    assert golden.lean is not None
    assert reply["candidates"]["pctr"] == pytest.approx(golden.lean["pctr"], abs=1e-5)
    assert reply["candidates"]["pctr"] != pytest.approx(golden.expected["pctr"], abs=1e-2)
    assert hurried.service.metric('msd_degraded_total{rung="lean",side="model"}') >= 1
    assert hurried.service.metric("msd_partial_total") == 0
    # With enough time the full model scores.
    reply = hurried.client.post("/v1/score", json=WIDE).json()
    assert "degraded" not in reply
    assert reply["candidates"]["pctr"] == pytest.approx(golden.expected["pctr"], abs=1e-5)


def test_lean_reply_declares_other_degradation(hurried: Hurried) -> None:
    ids = [*WIDE["candidates"]["id"][:-1], "no row"]
    reply = hurried.ask({"user_id": "nobody", "at": AT, "candidates": {"id": ids}, "top_k": 3}).json()
    assert reply["degraded"] == {"model": "lean", "user": "unknown", "candidates": {"no row": "prior"}}
    assert len(reply["candidates"]["id"]) == 3


def test_explanations_are_never_lean(hurried: Hurried) -> None:
    """With too little time for it, all of it is late, or parts are: never lean."""
    answer = hurried.ask({**WIDE, "explain": True})
    assert answer.status_code == 504, answer.text
    assert "lean" not in answer.text


def test_v2_and_the_served_model_declare_it(hurried: Hurried) -> None:
    inputs = [
        {"name": "user_id", "datatype": "BYTES", "shape": [1], "data": [WIDE["user_id"]]},
        {"name": "candidates.id", "datatype": "BYTES", "shape": [200], "data": WIDE["candidates"]["id"]},
    ]
    assert hurried.ask({"inputs": inputs}, "/v2/models/msd/infer").json()["parameters"]["degraded_model"] == "lean"
    assert hurried.client.get("/v1/model").json()["lean"] == {"loaded": True, "reason": ""}


@pytest.mark.parametrize(
    ("is_lean", "settings", "reason"),
    [
        (True, {}, "switched off by MSD_LEAN"),
        (False, {"lean": True}, "the bundle has no lean.onnx (`msd lean`)"),
    ],
)
def test_full_model_scores_without_a_lean_graph(
    is_lean: bool, settings: dict[str, Any], reason: str, lean_bundle: Bundle, bundle: Bundle
) -> None:
    served = lean_bundle if is_lean else bundle
    model = load_model(served, Settings(bundle=served.folder, **settings), Metrics())
    assert model.lean is None
    assert (model.lean_status.loaded, model.lean_status.reason) == (False, reason)
    assert load_of(10, model.runner, model.lean).lean_s is None


def test_logged_lean_request_is_replayed_with_the_lean_graph(hurried: Hurried, lean_bundle: Bundle) -> None:
    assert hurried.ask(WIDE).json()["degraded"] == {"model": "lean"}
    log = hurried.service.log_path.parent / "log"

    def is_logged() -> bool:
        files = log_files(log) if any(log.glob("requests-*")) else []
        return {True, False} <= {record.is_lean for file in files for record in read_requests(file)}

    wait_until(is_logged)
    found = replay_log(log, [lean_bundle], "as logged", None, lambda: None)
    assert found.requests == found.exact > 1


def _drop_scores(folder: Path) -> None:
    path = folder / GOLDENS
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    path.write_text("".join(json.dumps({**line, "lean": None}) + "\n" for line in lines), "utf-8")
    reseal(folder)


def _swap_graph(folder: Path) -> None:
    """The full graph in its place: of the right form, but of other scores."""
    shutil.copyfile(folder / RANKER, folder / LEAN_RANKER)
    reseal(folder)


def _other_inputs(folder: Path) -> None:
    model = onnx.load(folder / LEAN_RANKER)
    for one in model.graph.input:
        if one.name == "user_dense":
            one.name = "user_numbers"
    for node in model.graph.node:
        node.input[:] = ["user_numbers" if name == "user_dense" else name for name in node.input]
    onnx.save(model, folder / LEAN_RANKER)
    reseal(folder)


def _no_file(folder: Path) -> None:
    (folder / LEAN_RANKER).unlink()
    reseal(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_file, "does not list lean.onnx, but has a record of it"),
        (lambda folder: reseal(folder, lean=None), "lists lean.onnx, but has no record of it"),
        (_other_inputs, "lean.onnx: has the inputs"),
        (_drop_scores, "a golden has no scores of the lean graph"),
        (_swap_graph, "golden 1 differs by .* for the lean graph"),
    ],
)
def test_lean_graph_that_is_not_the_manifests_is_refused(
    damage: Callable[[Path], object], message: str, lean_bundle: Bundle, tmp_path: Path
) -> None:
    folder = Path(
        shutil.copytree(lean_bundle.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("verified.json"))
    )
    damage(folder)

    with pytest.raises(BundleError, match=message):
        prove(
            load_model(open_bundle(folder), Settings(bundle=folder, lean=True), Metrics()),
            max_candidates=200,
            pace=Pace(),
        )


FULL, LEAN = 1.0, 0.2
# So far away that the test's own time is nothing.
LEFT_S = 10.0


def gauge(metrics: Metrics) -> float:
    (family,) = [family for family in metrics.families.collect() if family.name == "msd_brownout"]
    return family.samples[0].value


def test_lean_graph_takes_over_before_any_is_refused() -> None:
    metrics = Metrics()
    without = admitted(Admission(Metrics(), 10_000), Load(10, FULL))
    found = admitted(Admission(metrics, 10_000), Load(10, FULL, LEAN))

    assert [one.is_lean for one in without] == [False] * 4
    # Three of a second each, which begin within four tenths of the time; then lean ones, up to half of it.
    assert [one.is_lean for one in found] == [False] * 3 + [True] * (len(found) - 3)
    assert len(found) == pytest.approx(3 + (LEFT_S / 2 - 3) / LEAN, abs=1)
    assert [one.load.seconds for one in found[2:4]] == [FULL, LEAN]
    assert gauge(metrics) == 1


def test_request_without_lean_graph_is_refused_as_before() -> None:
    admission = Admission(Metrics(), 10_000)
    lean = [one for one in admitted(admission, Load(10, FULL, LEAN)) if one.is_lean]
    assert lean
    with pytest.raises(Overloaded):
        admission.enter(Load(10, FULL), time.perf_counter() + LEFT_S)


def test_brownout_ends_once_the_full_model_could_score_the_load() -> None:
    metrics = Metrics()
    brownout = Brownout(metrics, threads=2)
    brownout.begin(100.0)
    now = 100.0
    # Six tenths of a second of work every tenth, for two threads: three times what they can do.
    for _ in range(30):
        now += 0.1
        brownout.offer(now, 0.6)
    assert brownout.is_on
    assert brownout.offered(now) == pytest.approx(3.0, rel=0.1)
    for _ in range(30):
        now += 0.1
        brownout.offer(now, 0.18)  # nine tenths
    assert brownout.is_on
    for _ in range(30):
        now += 0.1
        brownout.offer(now, 0.1)  # half
    assert not brownout.is_on
    assert gauge(metrics) == 0
    # Without any request the gauge falls too.
    brownout.begin(time.perf_counter() - 60)
    assert (brownout.is_on, gauge(metrics)) == (True, 0)


@given(st.lists(st.tuples(st.floats(0.0, 0.2), st.floats(0.0, 0.1)), max_size=50))
def test_brownout_lasts_at_least_a_second(offers: list[tuple[float, float]]) -> None:
    brownout = Brownout(Metrics(), threads=1)
    brownout.begin(5.0)
    now = 5.0
    for pause, seconds in offers:
        now += pause
        brownout.offer(now, seconds)
        if now - 5.0 < 1.0:
            assert brownout.is_on


def test_meanwhile_one_request_a_second_is_scored_in_full() -> None:
    """Else the time that a full run takes would never be learned again."""
    brownout = Brownout(Metrics(), threads=1)
    brownout.begin(0.0)
    probes = [at / 10 for at in range(50) if brownout.probes(at / 10)]
    assert probes == [1.0, 2.0, 3.0, 4.0]
