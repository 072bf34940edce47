"""The whole step on a small dataset: it learns, is skipped when done, and rejects wrong inputs."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msd.__main__ import main
from msd.dataset.load import load_dataset
from msd.dataset.texts import student_texts
from msd.step import STEP_FILE
from msd.student.distill import DistillConfig
from msd.student.encoder import encode_texts, load_student
from msd.student.lessons import fit_bag, teachers_words
from msd.student.record import HEADS, RECORD_FILE, VECTOR_DIM, StudentError
from msd.student.step import distill
from msd.student.vectors import (
    UNTAUGHT_FILE,
    VECTORS_FILE,
    WORDS_FILE,
    LevelVectors,
    load_vectors,
    load_words,
    save_words,
    untaught_items,
)
from msd.teachers.knowledge import Knowledge, KnowledgeBase, TeacherError, load_knowledge
from tests.dataset.tiny import write_tiny_dataset, write_tiny_knowledge
from tests.student.small import short_student

CONFIG = DistillConfig(seed=7)


class Cut(Exception):
    """A run ends here, as if it were killed."""


def quiet(name: str, done: int, total: int) -> None:
    """A progress bar that nobody sees."""


@pytest.fixture(scope="module", autouse=True)
def _short_students() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("msd.student.step.new_student", short_student)
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    dataset = write_tiny_dataset(folder / "dataset", users=20, items=60)
    knowledge = write_tiny_knowledge(folder / "knowledge", load_dataset(dataset))
    _without(knowledge, "3")
    return dataset, knowledge


def _without(knowledge: Path, item: str) -> None:
    """Makes the teacher know nothing of an item."""
    lines = (knowledge / "items.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["id"] != item]
    (knowledge / "items.jsonl").write_text("".join(kept), encoding="utf-8")
    record = json.loads((knowledge / "teach.json").read_text(encoding="utf-8"))
    (knowledge / "teach.json").write_text(json.dumps({**record, "items": len(kept)}), encoding="utf-8")


@pytest.fixture(scope="module")
def done(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "student"
    assert distill(*inputs, out, CONFIG, quiet)
    return out


@pytest.fixture(scope="module")
def base(inputs: tuple[Path, Path]) -> KnowledgeBase:
    return load_knowledge(inputs[1])


def _similarity(vectors: LevelVectors, entries: dict[str, Knowledge], base: KnowledgeBase) -> float:
    """Return the mean cosine of the vectors' words with what the teacher wrote of some IDs."""
    words = fit_bag(teachers_words(list(base.items.values()))).coordinates(teachers_words(list(entries.values())))
    found = vectors.vectors[[vectors.rows[name] for name in entries], HEADS["words"]]
    return float((found * words).sum() / words.any(axis=1).sum())


def test_vectors_have_the_teachers_words_of_taught_texts_and_the_students_of_others(
    done: Path, inputs: tuple[Path, Path], base: KnowledgeBase
) -> None:
    student, vectors = load_student(done), load_vectors(done)
    texts = student_texts(load_dataset(inputs[0]))
    for level, named in zip((vectors.items, vectors.users), texts, strict=True):
        assert level.ids == list(named)
        encoded = encode_texts(student, list(named.values()))
        np.testing.assert_allclose(level.vectors[:, HEADS["meaning"]], encoded[:, HEADS["meaning"]], atol=1e-6)
        if level is vectors.items:
            untaught = level.rows["3"]
            np.testing.assert_allclose(level.vectors[untaught], encoded[untaught], atol=1e-6)
    items = {name: entry for name, entry in base.items.items() if name in vectors.items.rows}
    assert _similarity(vectors.items, items, base) == pytest.approx(1.0, abs=1e-4)
    assert _similarity(vectors.users, base.users, base) == pytest.approx(1.0, abs=1e-4)
    # Item 3 has no knowledge, item 60 no text.
    assert vectors.gather("items", ["3", "60"])[1].tolist() == [True, False]


def test_student_of_items_alone_has_their_vectors(inputs: tuple[Path, Path], done: Path, tmp_path: Path) -> None:
    assert distill(*inputs, tmp_path, replace(CONFIG, users=False), quiet)
    alone, both = load_vectors(tmp_path), load_vectors(done)
    assert (alone.users.ids, alone.items.ids) == ([], both.items.ids)
    own, others = (one.items.vectors[:, HEADS["meaning"]] for one in (alone, both))
    np.testing.assert_allclose(own, others, atol=1e-6)


def test_student_guesses_the_words_of_texts_that_it_was_not_taught(done: Path) -> None:
    metrics = load_student(done).record.metrics
    for level in ("items", "users"):
        assert 0.3 < metrics[level]["held out"]["cosine"] < 0.99
        assert metrics[level]["fitted"]["cosine"] > 0.5


def test_rehearsed_student_does_not_know_held_out_items(
    done: Path, inputs: tuple[Path, Path], base: KnowledgeBase
) -> None:
    untaught = untaught_items(done, student_texts(load_dataset(inputs[0]))[0])
    assert len(untaught.ids) == 6  # a tenth of the 58 that have text and knowledge
    held_out = {name: base.items[name] for name in untaught.ids}
    guesses = _similarity(untaught, held_out, base)
    measured = load_student(done).record.metrics["items"]["held out"]["cosine"]
    assert guesses == pytest.approx(measured, abs=1e-2)
    assert guesses < _similarity(load_vectors(done).items, held_out, base) - 0.02


def test_rejects_damaged_rehearsal_and_repeats_a_missing_one(
    done: Path, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "student"
    shutil.copytree(done, folder)
    (folder / UNTAUGHT_FILE).write_bytes(b"\x00" * 50)
    with pytest.raises(StudentError, match=f"{UNTAUGHT_FILE}: .*distil again"):
        untaught_items(folder, {"1": "text"})
    (folder / UNTAUGHT_FILE).unlink()
    assert untaught_items(folder, {"1": "text"}).ids == []
    assert distill(*inputs, folder, CONFIG, quiet)
    assert (folder / UNTAUGHT_FILE).is_file()


def test_bag_of_words_is_kept_and_a_missing_one_made_again(
    done: Path, inputs: tuple[Path, Path], base: KnowledgeBase, tmp_path: Path
) -> None:
    folder, words = tmp_path / "student", teachers_words(list(base.items.values()))
    shutil.copytree(done, folder)
    (folder / WORDS_FILE).unlink()
    assert load_words(folder) is None
    assert distill(*inputs, folder, CONFIG, quiet)
    bag, vectors = load_words(folder), load_vectors(folder).items
    assert bag is not None
    due = dict(zip(base.items, bag.coordinates(words), strict=True))
    taught = [name for name in vectors.ids if name in due and due[name].any()]
    found = vectors.vectors[[vectors.rows[name] for name in taught], HEADS["words"]]
    assert np.array_equal(found, [due[name] for name in taught])
    save_words(bag, "f" * 64, folder)
    with pytest.raises(StudentError, match=f"{WORDS_FILE}: of another student"):
        load_words(folder)


def test_finished_step_is_skipped_until_something_changes(
    done: Path, inputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "student"
    shutil.copytree(done, out)
    command = ["distill", *map(str, inputs), str(out), "--seed", "7"]
    assert _run(command, capsys).count("nothing to do") == 1
    assert (out / VECTORS_FILE).stat().st_mtime == (done / VECTORS_FILE).stat().st_mtime
    (out / VECTORS_FILE).unlink()
    assert "nothing to do" not in _run(command, capsys)
    assert load_vectors(out).items.ids == load_vectors(done).items.ids
    step = json.loads((out / STEP_FILE).read_text())
    assert step.keys() == {"fingerprint", "seconds"}

    def cut(name: str, done: int, total: int) -> None:
        raise Cut

    with pytest.raises(Cut):
        distill(*inputs, out, replace(CONFIG, seed=8), cut)
    assert not (out / STEP_FILE).exists()


@pytest.mark.parametrize("is_whole", [True, False])
def test_interrupted_encoding_goes_on(
    is_whole: bool, inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "student"

    def cut(name: str, done: int, total: int) -> None:
        if done > 16:
            raise Cut

    monkeypatch.setattr("msd.student.step._KEPT_TOGETHER", 16)
    with pytest.raises(Cut):
        distill(*inputs, out, CONFIG, cut)
    (kept,) = (out / "encoded").iterdir()
    marked = np.full((16, VECTOR_DIM), 0.5, np.float32)
    np.save(kept, marked)
    kept.write_bytes(kept.read_bytes()[: None if is_whole else -1])
    assert distill(*inputs, out, CONFIG, quiet)
    assert not (out / "encoded").exists()
    meaning = load_vectors(out).items.vectors[:, HEADS["meaning"]]
    assert (meaning[:16] == 0.5).all() == is_whole
    assert not (meaning[16:] == 0.5).any()


def _run(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_rejects_folder_of_other_things(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    for out in inputs:
        with pytest.raises(StudentError, match="holds other things than a student"):
            distill(*inputs, out, CONFIG, quiet)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StudentError, match="is a file"):
        distill(*inputs, tmp_path / "file", CONFIG, quiet)


def test_rejects_other_and_missing_knowledge(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    knowledge, out = shutil.copytree(inputs[1], tmp_path / "knowledge"), tmp_path / "out"
    with pytest.raises(TeacherError, match="no such folder"):
        distill(inputs[0], tmp_path / "nowhere", out, CONFIG, quiet)
    record = json.loads((knowledge / "teach.json").read_text())
    (knowledge / "teach.json").write_text(json.dumps({**record, "dataset": "another"}))
    with pytest.raises(TeacherError, match=r"teach.json: is about the dataset 'another', not 'tiny'"):
        distill(inputs[0], knowledge, out, CONFIG, quiet)
    assert not out.exists()
    entry = {"known": True, "explicit": "A fact.", "implicit": "For you.", "tags": []}
    lines = [json.dumps({**entry, "id": f"other-{n}"}) + "\n" for n in range(20)]
    (knowledge / "items.jsonl").write_text("".join(lines))
    (knowledge / "users.jsonl").write_text("")
    (knowledge / "teach.json").write_text(json.dumps({**record, "items": 20, "users": 0}))
    with pytest.raises(StudentError, match="only 0 items have both a text and knowledge, of 59 with a text and 20"):
        distill(inputs[0], knowledge, out, CONFIG, quiet)
    assert not (out / RECORD_FILE).exists()
