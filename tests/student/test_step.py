"""The whole step on a small dataset: it learns, resumes, is skipped when done, and rejects wrong inputs."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from msd.__main__ import main
from msd.dataset.load import load_dataset
from msd.dataset.texts import student_texts
from msd.step import STEP_FILE
from msd.student.distill import CHECKPOINT_FILE, DistillConfig
from msd.student.encoder import encode_texts, load_student, new_student
from msd.student.lessons import BagOfWords, teachers_words
from msd.student.record import HEADS, RECORD_FILE, WEIGHTS_FILE, StudentError
from msd.student.step import WORK_FOLDER, distill
from msd.student.vectors import UNTAUGHT_FILE, VECTORS_FILE, LevelVectors, load_vectors, untaught_items
from msd.teachers.knowledge import Knowledge, TeacherError, load_knowledge
from tests.dataset.tiny import write_tiny_dataset, write_tiny_knowledge
from tests.student.small import short_student

CONFIG = DistillConfig(epochs=2, seed=7, frozen_layers=1)


class Cut(Exception):
    """A run ends here, as if it were killed."""


def quiet(name: str, done: int, total: int, note: str) -> None:
    """A progress bar that nobody sees."""


@pytest.fixture(scope="module", autouse=True)
def _short_students() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("msd.student.step.new_student", short_student)
        patch.setattr("msd.student.command.DistillConfig", partial(DistillConfig, frozen_layers=CONFIG.frozen_layers))
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


def test_folder_has_the_vectors_of_its_student(done: Path, inputs: tuple[Path, Path]) -> None:
    student, vectors = load_student(done), load_vectors(done)
    texts = student_texts(load_dataset(inputs[0]))
    for level, named in zip((vectors.items, vectors.users), texts, strict=True):
        assert level.ids == list(named)
        np.testing.assert_allclose(level.vectors, encode_texts(student, list(named.values())), atol=1e-6)
    assert not (done / WORK_FOLDER).exists()
    # Item 3 has no knowledge, item 60 no text.
    assert vectors.gather("items", ["3", "60"])[1].tolist() == [True, False]


def test_student_learns_the_knowledge(done: Path) -> None:
    record = load_student(done).record
    history = record.metrics["history"]
    stages = ("search", "rehearsal", "catalogue")
    assert [(epoch["stage"], epoch["epoch"]) for epoch in history] == [(stage, n) for stage in stages for n in (1, 2)]
    assert history[-1]["loss"] < history[0]["loss"]
    knowledge = record.metrics["knowledge"]
    for head in ("implicit", "words"):
        cosine = {name: figures[head]["cosine"] for name, figures in knowledge.items()}
        for level in ("items", "users"):
            assert cosine[f"{level}/held_out/search"] > cosine[f"{level}/held_out/plain"]
            assert cosine[f"{level}/training/catalogue"] > cosine[f"{level}/training/plain"]
    assert knowledge["items/held_out/plain"]["explicit"]["candidates"] == 58
    assert record.objective["epochs"] == 2


def test_rehearsed_student_does_not_know_held_out_items(done: Path, inputs: tuple[Path, Path]) -> None:
    """Its vectors of those items are far from the teacher's words, which the served student has memorised."""
    texts = student_texts(load_dataset(inputs[0]))[0]
    untaught, served = untaught_items(done, texts), load_vectors(done).items
    assert len(untaught.ids) == 6  # a tenth of the 58 that have text and knowledge
    base, users = load_knowledge(inputs[1]), load_vectors(done).users
    bag = BagOfWords(teachers_words([base.items[id_] for id_ in served.ids if id_ in base.items]))

    def similarity(vectors: LevelVectors, entries: dict[str, Knowledge]) -> float:
        found = vectors.vectors[[vectors.rows[name] for name in entries], HEADS["words"]]
        return float((found * bag.coordinates(teachers_words(list(entries.values())))).sum(axis=1).mean())

    held_out = {name: base.items[name] for name in untaught.ids}
    knows, guesses = similarity(served, held_out), similarity(untaught, held_out)
    assert min(knows, similarity(users, base.users)) > 0.8
    assert guesses < knows - 0.1
    figures = load_student(done).record.metrics["knowledge"]
    assert figures["items/training/rehearsal"]["words"]["cosine"] > 0.8
    assert figures["items/held_out/rehearsal"]["words"]["cosine"] == pytest.approx(guesses, abs=1e-3)


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


def test_head_without_knowledge_stays_untrained(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    knowledge, out = tmp_path / "knowledge", tmp_path / "student"
    shutil.copytree(inputs[1], knowledge)
    for name in ("items.jsonl", "users.jsonl"):
        entries = [json.loads(line) for line in (knowledge / name).read_text(encoding="utf-8").splitlines()]
        lines = [json.dumps({**entry, "implicit": " "}) + "\n" for entry in entries]
        (knowledge / name).write_text("".join(lines), encoding="utf-8")
    assert distill(inputs[0], knowledge, out, replace(CONFIG, epochs=1), quiet)
    student = load_student(out)
    for name, value in new_student().implicit.state_dict().items():
        assert torch.equal(student.implicit.state_dict()[name], value)
    figures = student.record.metrics["knowledge"]["items/training/catalogue"]
    assert figures["implicit"] == {}
    assert figures["words"]["recall_10"] > 0.5


def test_limit_teaches_the_most_shown_and_encodes_all(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    notes: list[str] = []
    assert distill(*inputs, tmp_path, replace(CONFIG, epochs=1, limit=15), quiet, notes.append)
    (note,) = notes
    assert note.startswith("15 items, 15 users are taught, 79 texts encoded: about ")
    assert "--limit N, now 15," in note
    student, vectors = load_student(tmp_path), load_vectors(tmp_path)
    assert student.record.metrics["knowledge"]["items/training/plain"]["explicit"]["candidates"] == 15
    for level, named in zip((vectors.items, vectors.users), student_texts(load_dataset(inputs[0])), strict=True):
        assert level.ids == list(named)
        np.testing.assert_allclose(level.vectors, encode_texts(student, list(named.values())), atol=1e-6)


@pytest.mark.parametrize(
    ("cut_at", "is_damaged"),
    [(("searching", 1), True), (("rehearsing", 1), False), (("learning the catalogue", 1), False)],
)
def test_interrupted_run_resumes_unless_its_work_is_damaged(
    cut_at: tuple[str, int], is_damaged: bool, done: Path, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    seen: list[tuple[str, int]] = []

    def cut(name: str, count: int, total: int, note: str) -> None:
        seen.append((name, count))
        if (name, count) == cut_at:
            raise Cut

    out = tmp_path / "student"
    with pytest.raises(Cut):
        distill(*inputs, out, CONFIG, cut)
    assert (out / WORK_FOLDER / CHECKPOINT_FILE).is_file()
    assert not (out / STEP_FILE).exists()
    if is_damaged:
        (out / WORK_FOLDER / CHECKPOINT_FILE).write_bytes(b"\x00" * 50)
    seen.clear()
    assert distill(*inputs, out, CONFIG, lambda name, count, total, note: seen.append((name, count)))
    assert (cut_at in seen) == is_damaged
    for file in (WEIGHTS_FILE, UNTAUGHT_FILE):
        again, expected = load_file(out / file), load_file(done / file)
        for name, value in expected.items():
            np.testing.assert_allclose(again[name], value, atol=1e-5, err_msg=name)
    assert load_student(out).record.metrics.keys() == load_student(done).record.metrics.keys()


def test_finished_step_is_skipped_until_something_changes(
    done: Path, inputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "student"
    shutil.copytree(done, out)
    command = ["distill", *map(str, inputs), str(out), "--epochs", "2", "--seed", "7"]
    assert _run(command, capsys).count("nothing to do") == 1
    assert (out / VECTORS_FILE).stat().st_mtime == (done / VECTORS_FILE).stat().st_mtime
    (out / VECTORS_FILE).unlink()
    assert "nothing to do" not in _run(command, capsys)
    assert load_vectors(out).items.ids == load_vectors(done).items.ids
    step = json.loads((out / STEP_FILE).read_text())
    assert step.keys() == {"fingerprint", "seconds"}

    def cut(name: str, done: int, total: int, note: str) -> None:
        raise Cut

    with pytest.raises(Cut):
        distill(*inputs, out, replace(CONFIG, seed=8), cut)
    assert not (out / STEP_FILE).exists()


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
