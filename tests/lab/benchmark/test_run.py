"""A benchmark's run: every variant and seed once, and nothing done twice after a stop."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lab.benchmark.given import Floats
from lab.benchmark.protocol import Folders, Progress, Protocol
from lab.benchmark.run import Results, Scope, run_benchmark
from lab.benchmark.variant import OURS, PLAIN, Variant, standard_variants
from msd.dataset.split import Part
from msd.ranker.batch import Corruption
from tests.lab.benchmark.made import QUICK_TRAINING, Steps, quick

NAMES = (OURS, PLAIN, "counts_gbdt", "bag_of_words")


def _prepare(data: Path, work: Path, progress: Progress) -> Folders:
    return Folders(data / "dataset", data / "knowledge")


TINY = quick(Protocol("tiny", "in time", _prepare, standard_variants(), delays_s=(0, 86_400)), *NAMES)


def _run(prepared: Path, work: Path, protocol: Protocol = TINY, seeds: Sequence[int] = (0, 1)) -> Results:
    """Run with the student that was distilled for all tests."""
    if not (work / "student").exists():
        shutil.copytree(prepared / "student", work / "student")
    return run_benchmark(protocol, prepared, work, Scope(seeds, protocol.delays_s), Steps())


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def results(prepared: Path, work: Path) -> Results:
    return _run(prepared, work)


def test_every_row_has_a_probability_and_views_differ(results: Results) -> None:
    for name, by_seed in results.found.items():
        for found in by_seed.values():
            assert list(found) == ["frozen", "live_0_s", "closed", "live_86400_s"]
            assert {len(results.rows[0].labels), *map(len, found.values())} == {120}
            # Trees read no histories, and a small blend may leave out what does.
            told = [one for view, one in found.items() if name == OURS or view != "closed"]
            assert len({probabilities.tobytes() for probabilities in told}) == len(told)
            assert all(0 < one.min() < one.max() < 1 for one in found.values())


def test_seeds_and_variants_differ(results: Results) -> None:
    tests = [found["frozen"] for seeds in results.found.values() for found in seeds.values()]
    assert len({test.tobytes() for test in tests}) == len(tests)


class _StoppedError(Exception):
    """Stands for a kill."""


def _same(left: Mapping[str, Floats], right: Mapping[str, Floats]) -> bool:
    return all(np.array_equal(left[view], right[view]) for view in ("frozen", "live_0_s", "closed"))


def test_stopped_run_resumes_and_ends_at_the_same(results: Results, prepared: Path, tmp_path: Path) -> None:
    def stop(doing: str, done: int, total: int) -> None:
        if f"{OURS}, seed 1" in doing:
            raise _StoppedError

    shutil.copytree(prepared / "student", tmp_path / "student")
    protocol = replace(quick(TINY, OURS, PLAIN), delays_s=(0,))
    with pytest.raises(_StoppedError):
        run_benchmark(protocol, prepared, tmp_path, Scope((0, 1), protocol.delays_s), stop)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "predictions").iterdir()}
    assert sorted(path.name for path in made) == [f"{OURS}-0-0.npz", f"{PLAIN}-0-0.npz"]
    whole = _run(prepared, tmp_path, protocol)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    for name, by_seed in whole.found.items():
        assert all(_same(predictions, results.found[name][seed]) for seed, predictions in by_seed.items())


def test_changed_setting_remakes_only_its_models(results: Results, prepared: Path, work: Path) -> None:
    """Trees do not depend on how networks are trained."""
    folder = work / "predictions"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    other = replace(TINY, training=replace(QUICK_TRAINING, corruption=Corruption(unknown=0.5)))
    found = _run(prepared, work, other, (0,)).found
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name in before if after[name] != before[name]} == {
        f"{name}-0-{delay}.npz" for name in (OURS, PLAIN, "bag_of_words") for delay in TINY.delays_s
    }
    assert not _same(found[PLAIN][0], results.found[PLAIN][0])


def test_seeds_may_hide_items_of_their_own(prepared: Path, tmp_path: Path) -> None:
    """Live counts are then not measured."""
    protocol = replace(quick(TINY, OURS, "counts_gbdt"), hidden=0.2, delays_s=(0,), user_vectors=False)
    found = _run(prepared, tmp_path, protocol)
    assert not np.array_equal(found.rows[0].labels, found.rows[1].labels)
    for by_seed in found.found.values():
        for seed, views in by_seed.items():
            assert list(views) == ["frozen"]
            assert len(views["frozen"]) == len(found.rows[seed].labels)


def test_scope_limits_what_is_run(prepared: Path, tmp_path: Path) -> None:
    """And without a model that reads its vectors, no student is distilled."""
    scope = Scope((1,), (86_400,), ("counts_gbdt",), Part.TEST)
    found = run_benchmark(TINY, prepared, tmp_path, scope, Steps())
    assert {name: list(by_seed) for name, by_seed in found.found.items()} == {"counts_gbdt": [1]}
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["counts_gbdt-1-86400.npz"]
    assert not (tmp_path / "student").exists()


def test_variants_are_valid_networks() -> None:
    for variant in standard_variants():
        assert variant.fitted or variant.config(TINY.ranker) is not None
    with pytest.raises(ValueError, match="nonsense"):
        Variant("odd", "ablation", "student", {"nonsense": True}).config(TINY.ranker)
