"""Bound buffers on a CPU: the scores are those of a plain session, whatever the size, and whoever asks at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from msd.contract.assemble import Tensors
from msd.contract.bundle import RANKER, Bundle
from msd.contract.errors import BundleError
from msd.contract.openvino import padded_size
from service.runtimes.cuda import BoundRuntime
from service.runtimes.onnxruntime import OnnxRuntime, engine_of, open_session
from service.runtimes.runtime import Runtime
from tests.bundles.ranker_graph import Recipe, build_ranker
from tests.service.runtimes.conftest import Asked, Make


class Watched:
    """A session that notes who runs it, on what."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401 - onnxruntime has no types
        self._session = session
        self.threads: set[int] = set()
        self.addresses: dict[str, set[int]] = {}

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:  # noqa: ANN401
        self.threads.add(threading.get_ident())
        graph = options.get_run_config_entry("gpu_graph_id")
        self.addresses.setdefault(graph, set()).add(binding.get_outputs()[0].data_ptr())
        self._session.run_with_iobinding(binding, options)


def _session(bundle: Bundle) -> Watched:
    return Watched(open_session(bundle.path(RANKER), "cpu", 1))


def _bound(bundle: Bundle, session: Any) -> BoundRuntime:  # noqa: ANN401
    return BoundRuntime(bundle, session, "cpu", engine_of(bundle, session, "cpu"))


@pytest.fixture(scope="module")
def session(made_for: Make) -> Watched:
    return _session(made_for("fp32"))


@pytest.fixture(scope="module")
def bound(made_for: Make, session: Watched) -> BoundRuntime:
    return _bound(made_for("fp32"), session)


@pytest.fixture(scope="module")
def plain(made_for: Make) -> OnnxRuntime:
    return OnnxRuntime(made_for("fp32"), "cpu", threads=1)


@pytest.fixture(scope="module")
def tensors(asked: Asked) -> Tensors:
    return max(asked, key=lambda one: len(one[1]))[0]


def _with(tensors: Tensors, count: int, first: int = 0) -> Tensors:
    """So many of the candidates, again and again, from one of them on."""
    places = first + np.arange(count)
    return {name: value[places % len(value)] if name.startswith("item") else value for name, value in tensors.items()}


def _same(one: Runtime, other: Runtime, tensors: Tensors) -> None:
    found, expected = one.run(tensors), other.run(tensors)
    assert found.keys() == expected.keys()
    for head, scores in expected.items():
        assert found[head].shape == scores.shape
        np.testing.assert_allclose(found[head], scores, atol=1e-6)


def test_it_reproduces_the_goldens(bound: BoundRuntime, asked: Asked) -> None:
    for tensors, expected in asked:
        np.testing.assert_allclose(bound.run(tensors)["pctr"], expected, atol=1e-6)
    assert bound.engine.key == "onnxruntime-cpu-fp32"
    assert (bound.engine.device, bound.engine.graphs) == ("", False)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 33, 200, 2_000, 2_049])
def test_any_number_of_candidates_scores_as_in_a_plain_session(
    bound: BoundRuntime, plain: OnnxRuntime, tensors: Tensors, count: int
) -> None:
    _same(bound, plain, _with(tensors, count))


def test_a_full_size_scores_to_the_bit_as_a_plain_session(
    bound: BoundRuntime, plain: OnnxRuntime, tensors: Tensors
) -> None:
    given = _with(tensors, 128)
    assert padded_size(128) == 128
    np.testing.assert_array_equal(bound.run(given)["pctr"], plain.run(given)["pctr"])


def test_what_was_in_the_buffers_before_does_not_show(
    bound: BoundRuntime, plain: OnnxRuntime, tensors: Tensors
) -> None:
    earlier = bound.run(_with(tensors, 40))["pctr"]
    kept = earlier.copy()
    assert padded_size(37) == 40

    _same(bound, plain, _with(tensors, 37, first=5))
    np.testing.assert_array_equal(earlier, kept)
    earlier[:] = 0.0
    _same(bound, plain, _with(tensors, 40))


def test_each_size_keeps_its_place(bound: BoundRuntime, session: Watched, tensors: Tensors) -> None:
    for count in (50, 51, 100, 49, 56, 52, 90):
        bound.run(_with(tensors, count, first=count))

    assert session.addresses.keys() >= {"56", "112", "96"}
    assert all(len(addresses) == 1 for addresses in session.addresses.values())


def test_many_at_once_get_their_own_scores_from_one_thread(
    bound: BoundRuntime, session: Watched, plain: OnnxRuntime, tensors: Tensors
) -> None:
    requests = [_with(tensors, 1 + 7 * number % 60, first=number) for number in range(120)]
    with ThreadPoolExecutor(6) as clients:
        found = list(clients.map(bound.run, requests))

    for scores, request in zip(found, requests, strict=True):
        np.testing.assert_allclose(scores["pctr"], plain.run(request)["pctr"], atol=1e-6)
    assert len(session.threads) == 1
    assert threading.get_ident() not in session.threads


def test_all_sizes_are_warmed_up(bound: BoundRuntime) -> None:
    assert list(bound.warm_up_sizes(200)) == sorted({padded_size(count) for count in range(1, 201)})


def test_a_run_that_fails_is_told_and_the_next_one_runs(
    bound: BoundRuntime, plain: OnnxRuntime, tensors: Tensors
) -> None:
    user = next(name for name in tensors if name.startswith("user"))
    with pytest.raises(RuntimeError, match="does not match"):
        bound.run({**tensors, user: np.concatenate([tensors[user]] * 2)})
    _same(bound, plain, tensors)


def test_a_graph_that_does_not_fit_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    model = build_ranker(bundle.schema, Recipe())
    model.graph.output[0].name = model.graph.node[-1].output[0] = "elsewhere"
    del model.graph.output[1:]
    onnx.save(model, tmp_path / RANKER)
    damaged = Bundle(tmp_path, bundle.manifest)

    with pytest.raises(BundleError, match="has no output 'pctr'"):
        _bound(damaged, open_session(damaged.path(RANKER), "cpu", 1))
