"""Collecting answers: each question is asked once, however often the run is broken off."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.dataset.load import Dataset, load_dataset
from msd.teachers.collect import Stage, TeachingEstimate, collect_knowledge, estimate
from msd.teachers.journal import Journal
from msd.teachers.knowledge import Knowledge, TeacherError, load_knowledge, load_record
from msd.teachers.prompts import messages, usage_of
from msd.teachers.teacher import Answered, Failed, Question, Reply, Usage, questions_of
from tests.dataset.small import EVENTS, ITEMS, write_small
from tests.dataset.tiny import write_tiny_dataset


class Parrot:
    """A teacher that repeats the question; it notes what it was asked, and gives up after so many answers."""

    name = "parrot"
    prompt_version = "1"
    prompt_sha256 = ""
    provenance = "repeats"

    def __init__(self, patience: int = 10**9) -> None:
        self.asked: list[Question] = []
        self._patience = patience

    def input_of(self, question: Question) -> str:
        return question.text

    def answer(self, questions: Sequence[Question]) -> Iterator[Reply]:
        for question in questions:
            if len(self.asked) == self._patience:
                raise TeacherError("the parrot is tired")
            self.asked.append(question)
            yield self.reply(question)

    def reply(self, question: Question) -> Reply:
        texts = f"It is {question.text}", f"A {question.level}, for those who “like” {question.text}"
        knowledge = Knowledge(id=question.id, explicit=texts[0], implicit=texts[1], tags=tuple("abcde"))
        return Answered(question, knowledge, "it repeats", Usage(10, 1))


class Choosy(Parrot):
    """Has no usable answer about some texts; `raw` is what it says instead."""

    def __init__(self, hated: str, raw: str | None) -> None:
        super().__init__()
        self._hated, self._raw = hated, raw

    def reply(self, question: Question) -> Reply:
        if self._hated in question.text:
            return Failed(question, self._raw, "it will not")
        return super().reply(question)


def ignore(stage: Stage) -> None:
    """No progress bar."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(write_tiny_dataset(tmp_path_factory.mktemp("tiny"), users=10))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(write_small(tmp_path_factory.mktemp("small")))


def test_folder_loads_and_names_its_teacher(tiny: Dataset, tmp_path: Path) -> None:
    seen: list[Stage] = []
    record = collect_knowledge(tiny, Parrot(), tmp_path / "out", seen.append).record
    base = load_knowledge(tmp_path / "out")
    items, users = questions_of(tiny)
    for questions, entries in ((items, base.items), (users, base.users)):
        expected = {question.id: f"It is {question.text}" for question in questions}
        assert {id_: entry.explicit for id_, entry in entries.items()} == expected
    assert record == load_record(tmp_path / "out")
    assert (record.teacher, record.dataset, record.items, record.users) == ("parrot", "tiny", 79, 10)
    assert seen[0] == Stage("items", 0, 79)
    assert seen[-1] == Stage("users", 10, 10, Usage(100, 10))
    assert "it repeats" not in (tmp_path / "out" / "items.jsonl").read_text(encoding="utf-8")


def test_interrupted_run_resumes(tiny: Dataset, tmp_path: Path) -> None:
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
    # Two users may have the same text.
    assert len(set(asked + last.asked)) == len(asked + last.asked)
    expected = list(dict.fromkeys(question.text for question in items + users))
    assert [question.text for question in asked + last.asked] == expected
    assert len(load_knowledge(tmp_path).items) == 79


@given(cut=st.integers(1, 600))
@settings(max_examples=40)
def test_half_written_line_is_asked_again(small: Dataset, tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("out")
    collect_knowledge(small, Parrot(), folder, ignore)
    whole = load_knowledge(folder)
    content = (folder / "answers.jsonl").read_bytes()
    kept = content[: max(0, len(content) - cut)]
    (folder / "answers.jsonl").write_bytes(kept)
    parrot = Parrot()
    collect_knowledge(small, parrot, folder, ignore)
    assert load_knowledge(folder) == whole
    assert (folder / "answers.jsonl").read_bytes() == content
    assert len(parrot.asked) == content.count(b"\n") - kept.count(b"\n")


def test_finished_folder_asks_nothing_even_if_damaged(small: Dataset, tmp_path: Path) -> None:
    collect_knowledge(small, Parrot(), tmp_path, ignore)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert collect_knowledge(small, Parrot(0), tmp_path, ignore).record.items == 3
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    names = ["answers.jsonl", "items.jsonl", "step.json", "teach.json", "users.jsonl"]
    assert sorted(path.name for path in before) == names
    whole = load_knowledge(tmp_path)
    for name in ("items.jsonl", "users.jsonl", "teach.json"):
        (tmp_path / name).write_text("{", encoding="utf-8")
        collect_knowledge(small, Parrot(0), tmp_path, ignore)
        assert load_knowledge(tmp_path) == whole


def test_only_changed_texts_are_asked_again(small: Dataset, tmp_path: Path) -> None:
    collect_knowledge(small, Parrot(), tmp_path / "out", ignore)
    other = load_dataset(write_small(tmp_path / "small", items=ITEMS.replace("Mystery", "Lantern")))
    parrot = Parrot(1)
    with pytest.raises(TeacherError, match="tired"):
        collect_knowledge(other, parrot, tmp_path / "out", ignore)
    with pytest.raises(TeacherError, match="has not finished"):
        load_knowledge(tmp_path / "out")
    later = Parrot()
    collect_knowledge(other, later, tmp_path / "out", ignore)
    assert [question.id for question in parrot.asked] == ["10"]
    assert {question.level for question in later.asked} == {"user"}
    assert all("Lantern" in question.text for question in later.asked)
    assert load_knowledge(tmp_path / "out").items["10"].explicit == "It is Lantern,"
    # The first dataset's answers are still there, and a change that no question shows needs no others.
    unchanged = load_dataset(write_small(tmp_path / "later", events=EVENTS.replace("1700000009,1", "1700000009,0")))
    assert unchanged.fingerprint != small.fingerprint
    collect_knowledge(unchanged, Parrot(0), tmp_path / "out", ignore)
    collect_knowledge(small, Parrot(0), tmp_path / "out", ignore)
    assert load_knowledge(tmp_path / "out").items["10"].explicit == "It is Mystery,"


def test_other_models_and_wordings_ask_everything(small: Dataset, tmp_path: Path) -> None:
    collect_knowledge(small, Parrot(), tmp_path, ignore)
    for change in ("name", "prompt_version"):
        other = Parrot()
        setattr(other, change, "other")
        collect_knowledge(small, other, tmp_path, ignore)
        assert len(other.asked) == len({question.text for question in other.asked}) > 3


def test_items_of_one_text_share_an_answer_or_refusal(tmp_path: Path) -> None:
    items = ITEMS + "11,Tent,camping|outdoor,5\n12,Tent,camping|outdoor,6\n"
    parrot = Parrot()
    data = load_dataset(write_small(tmp_path / "small", items=items))
    assert collect_knowledge(data, parrot, tmp_path / "out", ignore).record.items == 5
    assert [question.id for question in parrot.asked if question.text.startswith("Tent")] == ["1"]
    found = load_knowledge(tmp_path / "out").items
    assert found["12"] == found["1"].model_copy(update={"id": "12"})
    refusals = collect_knowledge(data, Choosy("Tent, camping", "no"), tmp_path / "refused", ignore).refusals
    assert [question.id for question in refusals] == ["1", "11", "12"]


def test_rejects_folders_that_are_not_its_own(small: Dataset, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text("{}\n", encoding="utf-8")
    for folder, message in (
        (tmp_path, r"holds items\.jsonl of unknown origin"),
        (tmp_path / "items.jsonl", "is a file; name a folder"),
        (tmp_path / "items.jsonl" / "out", "out cannot be written: .*Not a directory"),
    ):
        with pytest.raises(TeacherError, match=message):
            collect_knowledge(small, Parrot(), folder, ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["items.jsonl"]
    (tmp_path / "items.jsonl").rename(tmp_path / "step.json")
    with pytest.raises(TeacherError, match=r"holds step\.json of unknown origin"):
        collect_knowledge(small, Parrot(), tmp_path, ignore)
    (tmp_path / "step.json").unlink()
    (tmp_path / "answers.jsonl").mkdir()
    with pytest.raises(TeacherError, match=r"answers\.jsonl cannot be read: Is a directory"):
        collect_knowledge(small, Parrot(), tmp_path, ignore)


@pytest.mark.parametrize("name", ["answers.jsonl", "quarantine.jsonl"])
def test_rejects_wrong_line(small: Dataset, tmp_path: Path, name: str) -> None:
    collect_knowledge(small, Choosy("Boots, outdoor", "no"), tmp_path, ignore)
    content = (tmp_path / name).read_text(encoding="utf-8")
    (tmp_path / name).write_text(content + '{"key": "k"}\n', encoding="utf-8")
    number = content.count("\n") + 1
    with pytest.raises(TeacherError, match=rf"{name}, line {number}: level: is missing.*; mend or remove"):
        collect_knowledge(small, Parrot(), tmp_path, ignore)


def test_rejects_second_concurrent_run(small: Dataset, tmp_path: Path) -> None:
    collect_knowledge(small, Parrot(), tmp_path, ignore)
    with Journal(tmp_path), pytest.raises(TeacherError, match="another `msd teach` is writing to"):
        collect_knowledge(small, Parrot(), tmp_path, ignore)
    collect_knowledge(small, Parrot(0), tmp_path, ignore)


class Fickle(Parrot):
    """Answers about IDs of its own."""

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__()
        self._ids = ids

    def answer(self, questions: Sequence[Question]) -> Iterator[Reply]:
        known = {question.id: question for question in questions if question.level == "item"}
        ids = self._ids if known else ()
        return (self.reply(known.get(id_) or Question("item", id_, "?")) for id_ in ids)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["1", "77"], "answered for '77', which was not asked"),
        (["1", "1"], "answered for '1', which was not asked, or not once only"),
        (["1"], "left 2 questions about items and 3 questions about users open; run `msd teach` again"),
    ],
)
def test_rejects_teacher_that_breaks_its_contract(small: Dataset, tmp_path: Path, ids: list[str], message: str) -> None:
    with pytest.raises(TeacherError, match=message):
        collect_knowledge(small, Fickle(ids), tmp_path, ignore)


def quarantine(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()]


def test_wrong_answer_is_quarantined_and_not_asked_again(small: Dataset, tmp_path: Path) -> None:
    for teacher in (Choosy("Boots, outdoor", "no" * 9000), Parrot(0)):
        collected = collect_knowledge(small, teacher, tmp_path, ignore)
        assert collected.record.items == 2
        assert [(entry.level, entry.id, entry.reason) for entry in collected.refusals] == [("item", "2", "it will not")]
        (line,) = quarantine(tmp_path)
        assert (line["id"], line["level"], line["reason"]) == ("2", "item", "it will not")
        assert line["raw"] == "no" * 2000
        assert set(load_knowledge(tmp_path).items) == {"1", "10"}
    (tmp_path / "quarantine.jsonl").unlink()
    assert collect_knowledge(small, Parrot(), tmp_path, ignore).record.items == 3


def test_unanswered_question_is_asked_again(small: Dataset, tmp_path: Path) -> None:
    assert len(collect_knowledge(small, Choosy("Boots, outdoor", None), tmp_path, ignore).refusals) == 1
    assert [line["raw"] for line in quarantine(tmp_path)] == [None]
    parrot = Parrot()
    assert not collect_knowledge(small, parrot, tmp_path, ignore).refusals
    assert [question.id for question in parrot.asked] == ["2"]
    assert not (tmp_path / "quarantine.jsonl").exists()


def test_ten_unanswered_questions_in_a_row_end_the_run(tiny: Dataset, tmp_path: Path) -> None:
    dead = Choosy("", None)
    with pytest.raises(TeacherError, match="left 10 questions in a row without an answer: it will not"):
        collect_knowledge(tiny, dead, tmp_path, ignore)
    assert len(dead.asked) == 10
    with pytest.raises(TeacherError, match=r"none of .* answers can be used \(it will not\); see .*quarantine\.jsonl"):
        collect_knowledge(tiny, Choosy("", "no"), tmp_path, ignore)
    assert not (tmp_path / "teach.json").exists()


def test_estimate_counts_due_questions_and_writes_nothing(tiny: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    distinct = list({question.text: question for asked in questions_of(tiny) for question in asked}.values())
    usage = sum((usage_of(messages(question)) for question in distinct), Usage())
    assert estimate(tiny, Parrot(), folder) == TeachingEstimate(len(distinct), usage)
    assert not folder.exists()
    with pytest.raises(TeacherError, match="tired"):
        collect_knowledge(tiny, Parrot(30), folder, ignore)
    due = estimate(tiny, Parrot(), folder)
    assert (due.questions, due.measured, due.usage.written) == (len(distinct) - 30, 30, len(distinct) - 30)


def test_limit_is_a_sample_that_higher_limits_keep(tiny: Dataset, tmp_path: Path) -> None:
    samples = [questions_of(tiny, limit)[0] for limit in (3, 7)]
    assert [len({question.text for question in sample}) for sample in samples] == [3, 7]
    assert set(samples[0]) < set(samples[1]) < set(questions_of(tiny)[0])
    assert collect_knowledge(tiny, Parrot(), tmp_path, ignore, limit=3).record.items == len(samples[0])
