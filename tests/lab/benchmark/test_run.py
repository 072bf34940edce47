"""A benchmark's run: every variant and seed once, shared first stages, and nothing done twice after a stop."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lab.benchmark.predictions import Predictions
from lab.benchmark.protocol import Advance, Folders, Protocol
from lab.benchmark.run import Results, run_benchmark
from lab.benchmark.variant import OURS, PLAIN, UNTUNED, Variant, standard_variants
from msd.dataset.load import Dataset
from tests.lab.benchmark.made import QUICK_TRAINING, Heard, quick

NAMES = (OURS, PLAIN, "counts_gbdt", UNTUNED, "bag_of_words")


def _prepare(data: Path, work: Path, advance: Advance) -> Folders:
    return Folders(data / "dataset", data / "knowledge")


TINY = quick(Protocol("tiny", "in time", _prepare, standard_variants()), *NAMES)


def _run(prepared: Path, work: Path, protocol: Protocol = TINY, seeds: Sequence[int] = (0, 1)) -> tuple[Results, Heard]:
    """Runs with the student that was distilled for all tests, which a run takes as its own."""
    heard = Heard()
    shutil.copytree(prepared / "student", work / "student", dirs_exist_ok=True, copy_function=_copy_once)
    return run_benchmark(protocol, prepared, work, seeds, heard), heard


def _copy_once(source: str, target: str) -> None:
    if not Path(target).exists():
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def results(prepared: Path, work: Path) -> Results:
    found, heard = _run(prepared, work)
    due = [(name, 0) for name in NAMES] + [(name, 1) for name in NAMES[:3]]
    expected = [(f"{name}, seed {seed}", done, len(due)) for done, (name, seed) in enumerate(due)]
    assert heard.parts[0] == ("preparing", 0, 1)
    assert heard.parts[1:-1] == sorted(expected, key=lambda part: part[1])
    return found


def _same(one: Predictions, other: Predictions) -> bool:
    return all(np.array_equal(one[place], other[place]) for place in range(3))


def test_ablations_have_fewer_seeds(results: Results) -> None:
    assert {name: sorted(by_seed) for name, by_seed in results.found.items()} == {
        OURS: [0, 1],
        PLAIN: [0, 1],
        "counts_gbdt": [0, 1],
        UNTUNED: [0],
        "bag_of_words": [0],
    }


def test_all_rows_have_a_probability_and_live_counts_change_it(results: Results) -> None:
    for by_seed in results.found.values():
        for said in by_seed.values():
            assert len(said.valid) == len(said.test) == len(said.live) == len(results.rows[0].labels) == 120
            assert 0 < said.test.min() < said.test.max() < 1
            assert not np.array_equal(said.test, said.live)
            assert 0.3 < said.valid_auc < 1


def test_seeds_and_variants_differ(results: Results) -> None:
    # Tuning may leave a model as it was, where valid does not rank better for it.
    for either in (OURS, UNTUNED):
        said = [one.test for name, seeds in results.found.items() if name != either for one in seeds.values()]
        assert len({one.tobytes() for one in said}) == len(said)


def test_a_tuned_model_starts_from_the_one_without_tuning(results: Results, work: Path) -> None:
    """It is trained once: ours comes first and makes it, and its seconds hold those of both."""
    ours, untuned = results.found[OURS][0], results.found[UNTUNED][0]
    assert (work / "models" / f"{UNTUNED}-0").is_dir()
    assert not (work / "models" / f"{OURS}-0").exists()
    assert ours.own == ours.seconds > untuned.seconds > untuned.own


def test_a_second_run_makes_nothing(results: Results, prepared: Path, work: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    again, _ = _run(prepared, work)
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()} == before
    assert all(
        _same(again.found[name][seed], one) for name, by_seed in results.found.items() for seed, one in by_seed.items()
    )
    assert again.distilling == results.distilling > 0


class _StoppedError(Exception):
    pass


class _Stops(Heard):
    """Stops the run when a part begins."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.stop = part

    def part(self, name: str, done: int, total: int) -> None:
        super().part(name, done, total)
        if name == self.stop:
            raise _StoppedError


def test_a_run_that_was_stopped_goes_on_and_ends_at_the_same(results: Results, prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared / "student", tmp_path / "student")
    protocol = quick(TINY, OURS, PLAIN, "counts_gbdt")
    with pytest.raises(_StoppedError):
        run_benchmark(protocol, prepared, tmp_path, (0,), _Stops("counts_gbdt, seed 0"))
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "predictions").iterdir()}
    assert sorted(made) == [f"{OURS}-0.npz", f"{PLAIN}-0.npz"]
    whole, _ = _run(prepared, tmp_path, protocol, (0,))
    for name, at in made.items():
        assert (tmp_path / "predictions" / name).stat().st_mtime_ns == at
    assert all(_same(by_seed[0], results.found[name][0]) for name, by_seed in whole.found.items())


def test_only_what_another_setting_concerns_is_made_again(results: Results, prepared: Path, work: Path) -> None:
    """Trees do not depend on how networks are trained."""
    folder = work / "predictions"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    faster = replace(TINY, training=replace(QUICK_TRAINING, learning_rate=4e-3))
    found = _run(prepared, work, faster, (0,))[0].found
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name in before if after[name] != before[name]} == {
        f"{name}-0.npz" for name in (OURS, PLAIN, UNTUNED, "bag_of_words")
    }
    assert not _same(found[PLAIN][0], results.found[PLAIN][0])


def test_seeds_may_have_rows_of_their_own(prepared: Path, tmp_path: Path) -> None:
    """As where each hides other items; live counts then are not asked for, nor is what is known of users."""

    def without_a_user(dataset: Dataset, seed: int) -> Dataset:
        events = dataset.events.filter(dataset.events["user_id"] != f"u{seed + 1}")
        return replace(dataset, events=events, fingerprint=f"{dataset.fingerprint}-{seed}")

    protocol = replace(quick(TINY, OURS, "counts_gbdt"), of_seed=without_a_user, hidden=0.2, user_vectors=False)
    found, _ = _run(prepared, tmp_path, protocol)
    assert len(found.rows[0].labels) == len(found.rows[1].labels) == 115
    assert not np.array_equal(found.rows[0].labels, found.rows[1].labels)
    for by_seed in found.found.values():
        for seed, said in by_seed.items():
            assert len(said.test) == len(found.rows[seed].labels)
            assert np.array_equal(said.test, said.live)


def test_a_change_that_the_network_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Variant("odd", "ablation", "student", {"nonsense": True}).config(TINY.ranker)


def test_every_standard_variant_is_a_valid_network() -> None:
    for variant in standard_variants():
        assert variant.fitted or variant.config(TINY.ranker) is not None
