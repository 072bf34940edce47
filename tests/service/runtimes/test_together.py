"""Several requests in one run: each gets the scores that it has alone, on a plain session and on bound buffers."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from msd.contract.assemble import Tensors
from msd.contract.bundle import MERGED_RANKER, RANKER, Bundle
from msd.contract.errors import BundleError
from service.runtimes.choice import Together, open_runtime, open_together
from service.runtimes.cuda import BoundRuntime, try_capture
from service.runtimes.onnxruntime import OnnxRuntime, engine_of, open_session
from service.runtimes.runtime import TOGETHER, Engine, Runtime
from service.scoring import model
from service.settings import Settings
from tests.bundles.factory import build_bundle, golden_requests
from tests.bundles.ranker_graph import POISON_HOUR, Recipe, build_ranker
from tests.service.faults import ModelRuns
from tests.service.live import live_service, wait_until
from tests.service.runtimes.conftest import Asked
from tests.service.runtimes.test_cuda import needs_card


@pytest.fixture(scope="module")
def merging(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(tmp_path_factory.mktemp("merging") / "bundle", Recipe(merged=True))


def _bound(bundle: Bundle) -> BoundRuntime:
    session = open_session(bundle.path(MERGED_RANKER), "cpu", 1)
    alone = open_session(bundle.path(RANKER), "cpu", 1)
    return BoundRuntime(bundle, session, "cpu", engine_of(bundle, alone, "cpu"), TOGETHER)


@pytest.fixture(scope="module", params=["plain", "bound"])
def together(merging: Bundle, request: pytest.FixtureRequest) -> Together:
    runtime: Runtime = OnnxRuntime(merging, "cpu", 1, TOGETHER) if request.param == "plain" else _bound(merging)
    return Together(merging.schema, runtime, 2_000)


def _requests(asked: Asked, sizes: list[int]) -> list[Tensors]:
    """A golden's request for each size, with so many of its candidates, again and again."""
    return [
        {
            name: tensor[np.arange(size) % len(tensor)] if name.startswith("item") else tensor
            for name, tensor in asked[number % len(asked)][0].items()
        }
        for number, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("sizes", [[1], [3, 200, 1, 50], [7] * 16, [2, 600, 33]])
def test_each_gets_the_scores_that_it_has_alone(
    together: Together, merging: Bundle, asked: Asked, sizes: list[int]
) -> None:
    alone = OnnxRuntime(merging, "cpu", threads=1)
    requests = _requests(asked, sizes)
    found = together.run(requests)

    assert [len(scores["pctr"]) for scores in found] == sizes
    for scores, request in zip(found, requests, strict=True):
        for head, expected in alone.run(request).items():
            np.testing.assert_allclose(scores[head], expected, atol=1e-6)
    # Scores that every user has in common would prove nothing.
    firsts = [scores["pctr"][0] for scores in found]
    assert len({round(float(one), 5) for one in firsts}) >= min(3, len(sizes))


def test_a_run_of_it_can_be_tried_before_it_is_relied_on(merging: Bundle) -> None:
    try_capture(_bound(merging), merging, TOGETHER)


def test_requests_run_alone_on_a_cpu(merging: Bundle) -> None:
    settings = Settings(bundle=merging.folder)
    assert open_together(merging, open_runtime(merging, settings).engine, settings) is None


def _merge_on_cpu(runs: ModelRuns) -> None:
    """Let a service share runs as on a GPU."""

    def together(bundle: Bundle, engine: Engine, settings: Settings) -> Together:
        return Together(bundle.schema, OnnxRuntime(bundle, "cpu", 1, TOGETHER), settings.max_candidates)

    model.open_together = together  # type: ignore[attr-defined]
    runs.obey()


def test_a_graph_for_one_user_is_refused(merging: Bundle, tmp_path: Path) -> None:
    graph = build_ranker(merging.schema, Recipe(), merged=True)
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(graph, tmp_path / MERGED_RANKER)
    with pytest.raises(
        BundleError, match=r"ranker\.merged\.onnx: input user_categorical takes 1 requests; its first axis"
    ):
        OnnxRuntime(Bundle(tmp_path, merging.manifest), "cpu", 1, TOGETHER)


def test_a_service_that_merges_fails_only_whom_it_must(tmp_path: Path) -> None:
    """Of requests that come at once, one is of an hour at which the model gives no number."""
    build_bundle(tmp_path / "bundle", Recipe(poison=True, merged=True))
    goldens = golden_requests()
    runs = ModelRuns(tmp_path)

    def ask(number: int) -> int:
        request = goldens[number % len(goldens)]
        if number % 8 == 3:
            request = {**request, "context": {"hour": POISON_HOUR}}
        return running.score(request).status_code

    with live_service(tmp_path / "bundle", tmp_path, prepare=partial(_merge_on_cpu, runs)) as running:
        before = running.metric("msd_run_rows_count")
        with ThreadPoolExecutor(48) as clients:
            with runs.held():
                asked = [clients.submit(ask, number) for number in range(48)]
                wait_until(lambda: running.metric("msd_queued_rows") > 40)
            codes = [one.result() for one in asked]
        ran = running.metric("msd_run_rows_count") - before

    assert codes == [500 if number % 8 == 3 else 200 for number in range(48)]
    assert 3 <= ran < 48


@pytest.mark.gpu
@needs_card
def test_on_a_card_requests_run_together(merging: Bundle, asked: Asked) -> None:
    settings = Settings(bundle=merging.folder, provider="cuda")
    runtime = open_runtime(merging, settings)
    together = open_together(merging, runtime.engine, settings)
    assert together is not None
    requests = _requests(asked, [3, 200, 1, 50])
    for scores, request in zip(together.run(requests), requests, strict=True):
        np.testing.assert_allclose(scores["pctr"], runtime.run(request)["pctr"], atol=1e-5)
