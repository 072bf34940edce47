"""`msd train --choose`: vectors that hurt are left out, and finished networks are reused."""

import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from msd.dataset.load import Dataset, load_dataset
from msd.ranker.model import RankerConfig
from msd.student.record import VECTOR_DIM
from msd.student.vectors import LevelVectors, StudentVectors, load_vectors, no_vectors, save_vectors
from msd.training.choice import (
    WHOLE,
    WITHOUT_SEMANTICS,
    WITHOUT_USER_KNOWLEDGE,
    Training,
    choose_network,
    valid_halves,
    variants_of,
)
from msd.training.crossfit import CrossfitError, UserHalves
from msd.training.folder import load_ranker
from msd.training.train import Progress, TrainConfig
from tests.dataset.tiny import write_tiny_dataset
from tests.ranker.made import SMALL, STUDENT, Run, World, dataset_of, quiet, word_vectors, write_small_student

PAIR = (WHOLE, WITHOUT_SEMANTICS)
NOBODY = no_vectors().users
USERS, EACH = 60, 30


def _misleading(folder: Path) -> tuple[Training, UserHalves]:
    """Every item is shown once, so that its text alone tells what it is: bargains are clicked, and more in the evening.
    From the valid part on, texts say nothing."""
    rng = np.random.default_rng(0)
    count = USERS * EACH
    place, bargain, evening = np.tile(np.arange(EACH), USERS), rng.random(count) < 0.5, rng.random(count) < 0.5
    tells = np.where(place < 0.6 * EACH, bargain, rng.random(count) < 0.5)
    clicked = rng.random(count) < 0.05 + 0.5 * tells + 0.4 * evening
    dataset = dataset_of(
        [(f"u{row // EACH}", f"i{row}", 1_000 * (row % EACH) + row // EACH, int(clicked[row])) for row in range(count)],
        events={"hour": np.where(evening, "evening", "noon").tolist()},
        items={"item_id": [f"i{row}" for row in range(count)]},
        split={"profile_window": 0.3, "train": 0.6, "valid": 0.95},
        features=[{"name": "hour", "side": "context", "kind": "categorical"}],
    )
    directions = rng.standard_normal((2, VECTOR_DIM))
    vectors = (directions[bargain.astype(int)] + rng.standard_normal((count, VECTOR_DIM)) / 2).astype(np.float32)
    known = StudentVectors(STUDENT, LevelVectors([f"i{row}" for row in range(count)], vectors), NOBODY)
    tasteless = SMALL.model_copy(update={"taste": False, "crosses": ()})
    training = Training(dataset.fingerprint, known, tasteless, TrainConfig(epochs=2), folder / "work")
    for variant in PAIR:
        training.write_features(variant, dataset)
    return training, valid_halves(dataset)


def test_drops_vectors_that_hurt_and_reuses_finished_networks(tmp_path: Path) -> None:
    training, halves = _misleading(tmp_path)
    training.train(WHOLE, nullcontext(quiet))
    heard: list[str] = []

    def show(name: str) -> AbstractContextManager[Progress]:
        return nullcontext(lambda epoch, step, loss: heard.append(name))

    network, choice = choose_network(training, PAIR, halves, show)
    assert "item" not in network.model.adaptors
    assert choice.ci95 is not None
    assert 0 < choice.ci95[0] < choice.gain
    assert choice.say().startswith("ours_without_semantics instead of the whole network: chosen on one half")
    assert set(heard) == {"ours_without_semantics (2 of 2)"}
    assert choose_network(training, PAIR, halves, show)[1] == choice
    assert list(choice.tried) == [WHOLE.name, WITHOUT_SEMANTICS.name]


@pytest.mark.parametrize("end", [None, -1, 9, 0])
def test_features_that_are_missing_or_cut_short_are_written_again(
    end: int | None, world: World, tmp_path: Path
) -> None:
    training = Training("d", world.vectors, SMALL, TrainConfig(), tmp_path)
    training.write_features(WHOLE, world.dataset)
    (file,) = tmp_path.glob("features/*/labels.npy")
    whole = file.read_bytes()
    file.unlink() if end is None else file.write_bytes(whole[:end])
    training.write_features(WHOLE, world.dataset)
    assert file.read_bytes() == whole


def test_command_keeps_the_chosen_network(tmp_path: Path, run: Run) -> None:
    out, student = tmp_path / "model", tmp_path / "student"
    data = write_tiny_dataset(tmp_path / "data", users=40, each=25)
    write_small_student(student, load_dataset(data))
    command = ("train", data, student, out, "--epochs", "1", "--choose")
    code, output = run(*command)
    assert code == 0, output
    _, record = load_ranker(out)
    assert record.choice is not None
    assert len(record.choice.tried) == 4
    assert record.choice.say() in output
    assert not (out / ".work").exists()
    assert run(*command) == (0, f"{out}: done before, nothing to do")


@pytest.mark.parametrize(
    ("part", "changes"),
    [("user_knowledge", {}), ("taste", {"taste": False})],
)
def test_without_leaves_out_a_part(
    part: str, changes: dict[str, object], tiny_folder: Path, student: Path, tmp_path: Path, run: Run
) -> None:
    command = ("train", tiny_folder, student, tmp_path, "--without", part, "--epochs", "1")
    code, output = run(*command)
    assert code == 0, output
    model, record = load_ranker(tmp_path)
    assert record.config.model_copy(update={"crosses": None}) == RankerConfig().model_copy(update=changes)
    assert list(model.adaptors) == (["item"] if part == "user_knowledge" else ["user", "item"])
    assert run(*command) == (0, f"{tmp_path}: done before, nothing to do")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--without", "taste", "--choose"), "--without is of MSD's own network with semantics, and does not"),
        (("--without", "taste", "--network", "lr"), "--without is of MSD's own network with semantics"),
        (("--without", "taste", "--no-semantics"), "--without is of MSD's own network with semantics"),
        (("--without", "everything"), "'everything' is not one of 'user_knowledge', 'taste'"),
        (("--choose", "--network", "lr"), "nothing to choose: lr is a baseline, not MSD's own network"),
        (("--choose", "--no-semantics"), "a model without semantics does not read the student's vectors"),
    ],
)
def test_rejects_options_without_a_choice(
    options: tuple[str, ...], reason: str, tiny_folder: Path, student: Path, tmp_path: Path, run: Run
) -> None:
    code, said = run("train", tiny_folder, student, tmp_path / "out", *options)
    assert (code, reason in said) == (2, True), said
    assert not (tmp_path / "out").exists()


def test_rejects_data_without_a_choice_before_training(
    tiny_folder: Path, student: Path, tmp_path: Path, run: Run
) -> None:
    few = write_tiny_dataset(tmp_path / "few", users=20)
    shutil.copytree(student, bare := tmp_path / "bare")
    vectors = load_vectors(student)
    save_vectors(replace(vectors, items=NOBODY), bare)
    for data, given, reason in (
        (few, student, "the valid rows are of 20 users, too few to choose by: 40 are needed; train without --choose"),
        (tiny_folder, bare, "nothing to choose: no item has a text; train without --choose"),
    ):
        code, said = run("train", data, given, tmp_path / "out", "--choose")
        assert (code, reason in said) == (2, True), said
    assert not (tmp_path / "out").exists()


def test_user_knowledge_is_a_variant_only_with_user_vectors(tiny: Dataset) -> None:
    vectors = word_vectors(tiny)
    names, fewer = ([one.name for one in variants_of(held)] for held in (vectors, replace(vectors, users=NOBODY)))
    names.remove(WITHOUT_USER_KNOWLEDGE.name)
    assert names == fewer


CHOOSERS, ROWS_EACH = 120, 20
OWNERS = np.repeat(np.arange(CHOOSERS), ROWS_EACH)
ONES = np.ones(len(OWNERS))
LABELS = (np.random.default_rng(0).random(len(OWNERS)) < 0.4).astype(np.float64)
HALVES = UserHalves.of(LABELS, OWNERS, ONES)


def _said(noise: float, seed: int) -> NDArray[np.float64]:
    """Probabilities that know the labels as well as their noise allows."""
    drawn = np.random.default_rng(seed).normal(0, noise, len(LABELS))
    return np.asarray(1 / (1 + np.exp(-(LABELS + drawn))))


def test_halves_split_users() -> None:
    first, second = HALVES.halves
    assert sorted([*first.rows, *second.rows]) == list(range(len(LABELS)))
    assert not set(first.users) & set(second.users)
    assert len(set(first.users)) == len(set(second.users)) == CHOOSERS // 2


@pytest.mark.parametrize(
    ("noises", "kept", "told"),
    [
        ((1.0, 3.0, 2.0), "whole", "whole is kept: nothing else ranks either half of valid's users better"),
        ((2.0, 2.0, 2.0), "whole", "whole is kept: nothing else is surely better"),
        ((3.0, 3.0, 1.0), "second", "second instead of whole: "),
        ((3.0, 1.0, 2.0), "first", "first instead of whole: "),
    ],
)
def test_keeps_the_whole_unless_another_is_surely_better(noises: tuple[float, ...], kept: str, told: str) -> None:
    names = ("whole", "first", "second")
    choice = HALVES.choose(
        {name: _said(noise, seed) for seed, (name, noise) in enumerate(zip(names, noises, strict=True))}
    )
    assert choice.kept == kept
    assert choice.say().startswith(told)
    assert choice.ci95 is not None
    assert (choice.ci95[0] > 0) == (kept != "whole")
    assert choice.ci95[0] <= choice.gain <= choice.ci95[1]
    assert list(choice.tried) == list(names)
    assert choice.tried["whole"].gain == 0


def test_what_is_surely_worse_by_logloss_is_not_kept() -> None:
    """It ranks better, and bids by it would be wrong."""
    whole, other = _said(3.0, 0), _said(2.0, 1)
    assert HALVES.choose({"whole": whole, "other": other}).kept == "other"
    boastful = 1 / (1 + ((1 - other) / other) ** 6)
    choice = HALVES.choose({"whole": whole, "other": boastful})
    assert choice.kept == "whole"
    assert choice.ci95 is not None
    assert choice.ci95[0] > 0
    ends = choice.others["less logloss"]
    assert ends is not None
    assert ends[1] < 0


def test_what_surely_orders_users_ads_worse_is_not_kept() -> None:
    """A model that knows only who clicks ranks pairs of all users, and no ad for one."""
    clicks = np.random.default_rng(1).random(CHOOSERS)[OWNERS]
    labels = (np.random.default_rng(2).random(len(OWNERS)) < clicks).astype(np.float64)
    halves, noise = UserHalves.of(labels, OWNERS, ONES), np.random.default_rng(3).normal(0, 1, len(OWNERS))
    ads = 1 / (1 + np.exp(-(0.7 * labels - 0.35 + noise)))
    choice = halves.choose({"whole": ads * 0.5 + 0.25, "level": np.clip(clicks, 0.01, 0.99)})
    ends = choice.others["AUC within users"]
    assert ends is not None
    assert ends[1] < 0
    assert choice.kept == "whole"


def test_ties_go_to_the_whole_then_to_the_simpler() -> None:
    better, worse = _said(1.0, 1), _said(3.0, 0)
    assert HALVES.choose({"whole": better, "same": better}).kept == "whole"
    assert HALVES.choose({"whole": worse, "simple": better, "more": better}).by_half == ("simple", "simple")
    # Each half prefers another of two, neither of which is surely better on both.
    first = np.isin(OWNERS, HALVES.halves[0].users)
    little = 0.02 * (LABELS - 0.5)
    one, other = np.where(first, better + little, better), np.where(first, better, better + little)
    choice = HALVES.choose({"whole": worse, "simple": one, "more": other})
    assert (choice.by_half, choice.kept) == (("simple", "more"), "simple")


def test_reported_gain_is_not_that_of_the_luckiest() -> None:
    """Eight that are equally good: the best on the rows that it is chosen by gains, the choice does not."""
    some = OWNERS % 2 == 0
    some &= np.arange(len(OWNERS)) % ROWS_EACH < 6
    halves = UserHalves.of(LABELS[some], OWNERS[some], ONES[some])
    told, luckiest = [], []
    for draw in range(12):
        choice = halves.choose({str(place): _said(2.0, 100 * draw + place)[some] for place in range(8)})
        told.append(choice.gain)
        luckiest.append(max(one.gain for one in choice.tried.values()))
    assert np.mean(luckiest) > 0.02
    assert abs(np.mean(told)) < np.mean(luckiest) / 2


def test_choice_weighs_impressions() -> None:
    """A model that is right on the few rows that stand for many impressions is better."""
    heavy = OWNERS % 2 == 0
    said = {
        "whole": np.where(heavy, _said(9.0, 1), _said(0.5, 2)),
        "simple": np.where(heavy, _said(0.5, 3), _said(9, 4)),
    }
    for weights, kept in ((np.where(heavy, 50.0, 1.0), "simple"), (np.where(heavy, 1.0, 50.0), "whole")):
        assert UserHalves.of(LABELS, OWNERS, weights).choose(said).kept == kept


def test_rejects_rows_that_cannot_decide() -> None:
    few = OWNERS < 39
    with pytest.raises(CrossfitError, match=r"valid rows are of 39 users, too few to choose by: 40 are needed"):
        UserHalves.of(LABELS[few], OWNERS[few], ONES[few])
    lonely = np.zeros(len(LABELS))
    lonely[0] = 1.0
    with pytest.raises(CrossfitError, match=r"all 1200 valid rows of one half of the users have label 0"):
        UserHalves.of(lonely, OWNERS, ONES)
