"""Collecting answers: each question is asked once, however often the run is broken off."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.dataset.load import Dataset, load_dataset
from msd.teachers.collect import collect_knowledge
from msd.teachers.knowledge import Knowledge, TeacherError, load_knowledge, load_record
from msd.teachers.teacher import Question, questions_of
from tests.dataset.small import EVENTS, write_small
from tests.dataset.tiny import write_tiny_dataset


class Parrot:
    """A teacher that repeats the question; it notes what it was asked, and gives up after so many answers."""

    name = "parrot"
    prompt_version = "1"
    provenance = "repeats"

    def __init__(self, patience: int = 10**9) -> None:
        self.asked: list[Question] = []
        self._patience = patience

    def answer(self, questions: Sequence[Question]) -> Iterator[Knowledge]:
        for question in questions:
            if len(self.asked) == self._patience:
                raise TeacherError("the parrot is tired")
            self.asked.append(question)
            yield Knowledge(id=question.id, explicit=question.text, implicit=f"{question.level}, “likes” it")


class Fickle(Parrot):
    """Answers with ids of its own."""

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__()
        self._ids = ids

    def answer(self, questions: Sequence[Question]) -> Iterator[Knowledge]:
        return (Knowledge(id=id_, explicit="e", implicit="i") for id_ in self._ids)


def ignore(name: str, done: int, total: int) -> None:
    """A progress bar that nobody looks at."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(write_tiny_dataset(tmp_path_factory.mktemp("tiny"), users=10))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(write_small(tmp_path_factory.mktemp("small")))


def test_the_folder_loads_and_says_whose_it_is(tiny: Dataset, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    record = collect_knowledge(tiny, Parrot(), tmp_path / "out", lambda *step: seen.append(step))
    base = load_knowledge(tmp_path / "out")
    items, users = questions_of(tiny)
    assert {one.id: one.text for one in items} == {id_: one.explicit for id_, one in base.items.items()}
    assert {one.id: one.text for one in users} == {id_: one.explicit for id_, one in base.users.items()}
    assert record == load_record(tmp_path / "out")
    assert (record.teacher, record.dataset, record.items, record.users) == ("parrot", "tiny", 79, 10)
    assert seen[0] == ("items.jsonl", 0, 79)
    assert seen[-1] == ("users.jsonl", 10, 10)


def test_a_broken_off_run_goes_on_where_it_ended(tiny: Dataset, tmp_path: Path) -> None:
    asked: list[Question] = []
    for patience in (30, 30, 25):
        parrot = Parrot(patience)
        with pytest.raises(TeacherError, match="tired"):
            collect_knowledge(tiny, parrot, tmp_path, ignore)
        asked += parrot.asked
        with pytest.raises(TeacherError, match="has not finished"):
            load_knowledge(tmp_path)
    last = Parrot()
    collect_knowledge(tiny, last, tmp_path, ignore)
    items, users = questions_of(tiny)
    assert asked + last.asked == items + users
    assert len(load_knowledge(tmp_path).items) == 79


@given(cut=st.integers(1, 400))
@settings(max_examples=40, deadline=None)
def test_a_half_written_line_is_asked_again(small: Dataset, tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("out")
    collect_knowledge(small, Parrot(), folder, ignore)
    whole = load_knowledge(folder)
    content = (folder / "items.jsonl").read_bytes()
    kept = content[: max(0, len(content) - cut)]
    (folder / "items.jsonl").write_bytes(kept)
    (folder / "teach.json").unlink()
    parrot = Parrot()
    collect_knowledge(small, parrot, folder, ignore)
    assert load_knowledge(folder) == whole
    assert len(parrot.asked) == len(whole.items) - kept.count(b"\n")


def test_a_finished_folder_asks_nothing(small: Dataset, tmp_path: Path) -> None:
    collect_knowledge(small, Parrot(), tmp_path, ignore)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert collect_knowledge(small, Parrot(0), tmp_path, ignore).items == 3
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(path.name for path in before) == ["items.jsonl", "step.json", "teach.json", "users.jsonl"]


def test_a_finished_folder_that_was_damaged_is_told(small: Dataset, tmp_path: Path) -> None:
    collect_knowledge(small, Parrot(), tmp_path, ignore)
    (tmp_path / "items.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(TeacherError, match="line 1: Invalid JSON"):
        collect_knowledge(small, Parrot(), tmp_path, ignore)


def test_answers_to_other_questions_are_not_mixed_in(small: Dataset, tiny: Dataset, tmp_path: Path) -> None:
    collect_knowledge(small, Parrot(), tmp_path / "out", ignore)
    with pytest.raises(TeacherError, match="answers of another teacher or to other questions"):
        collect_knowledge(tiny, Parrot(), tmp_path / "out", ignore)
    later = EVENTS.replace("1700000001,1", "1700000001,0")
    other = load_dataset(write_small(tmp_path / "small", events=later))
    with pytest.raises(TeacherError, match="the dataset has changed since"):
        collect_knowledge(other, Parrot(), tmp_path / "out", ignore)


def test_a_change_that_no_question_shows_keeps_the_answers(small: Dataset, tmp_path: Path) -> None:
    collect_knowledge(small, Parrot(), tmp_path / "out", ignore)
    later = EVENTS.replace("1700000009,1", "1700000009,0")
    other = load_dataset(write_small(tmp_path / "small", events=later))
    assert other.fingerprint != small.fingerprint
    collect_knowledge(other, Parrot(0), tmp_path / "out", ignore)


def test_a_folder_of_unknown_origin_is_left_alone(small: Dataset, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(TeacherError, match=r"holds items\.jsonl of unknown origin"):
        collect_knowledge(small, Parrot(), tmp_path, ignore)
    with pytest.raises(TeacherError, match="is a file; name a folder"):
        collect_knowledge(small, Parrot(), tmp_path / "items.jsonl", ignore)
    (tmp_path / "step.json").write_text("[]", encoding="utf-8")
    with pytest.raises(TeacherError, match=r"step\.json is damaged"):
        collect_knowledge(small, Parrot(), tmp_path, ignore)


def test_a_wrong_line_in_the_middle_is_not_passed_over(small: Dataset, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="tired"):
        collect_knowledge(small, Parrot(2), tmp_path, ignore)
    content = (tmp_path / "items.jsonl").read_text(encoding="utf-8")
    (tmp_path / "items.jsonl").write_text("{}\n" + content, encoding="utf-8")
    with pytest.raises(TeacherError, match=r"items\.jsonl, line 1: id: Field required"):
        collect_knowledge(small, Parrot(), tmp_path, ignore)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["1", "77"], "answered for '77', which was not asked"),
        (["1", "1"], "answered for '1', which was not asked, or not once only"),
        (["1"], r"left 2 questions for items\.jsonl open"),
    ],
)
def test_a_teacher_that_errs_is_told(small: Dataset, tmp_path: Path, ids: list[str], message: str) -> None:
    with pytest.raises(TeacherError, match=message):
        collect_knowledge(small, Fickle(ids), tmp_path, ignore)


def test_questions_about_users_hold_the_window_alone(tiny: Dataset) -> None:
    _, users = questions_of(tiny)
    assert {question.level for question in users} == {"user"}
    assert all("Liked: " in question.text for question in users)
