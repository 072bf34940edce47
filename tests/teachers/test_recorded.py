"""The recorded answers: whole, in the order asked, and only for the dataset that they are about."""

from importlib import resources
from pathlib import Path

import pytest

from msd.dataset.config import DatasetConfig, EventsConfig, ItemsConfig, SplitConfig
from msd.teachers.knowledge import Knowledge, TeacherError
from msd.teachers.recorded import RecordedTeacher
from msd.teachers.teacher import Answered, Level, Question, Teacher

SHIPPED = resources.files("msd.teachers") / "answers" / "ml-100k"


def config_of(name: str, window: float = 0.5) -> DatasetConfig:
    return DatasetConfig(
        format=1,
        name=name,
        events=EventsConfig(file="events.csv"),
        items=ItemsConfig(file="items.csv", text="{title}"),
        split=SplitConfig(profile_window=window),
    )


def ask(level: Level, *ids: str) -> list[Question]:
    return [Question(level, id_, "any text") for id_ in ids]


def answers(teacher: Teacher, *questions: Question) -> list[Knowledge]:
    replies = list(teacher.answer(questions))
    assert [reply.question for reply in replies] == list(questions)
    return [reply.knowledge for reply in replies if isinstance(reply, Answered)]


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return RecordedTeacher(config_of("ml-100k"))


def test_every_item_and_user_has_an_answer_in_the_order_asked(teacher: Teacher) -> None:
    items = answers(teacher, *ask("item", *map(str, range(1682, 0, -1))))
    users = answers(teacher, *ask("user", *map(str, range(1, 944))))
    assert [answer.id for answer in items] == [str(n) for n in range(1682, 0, -1)]
    assert [answer.id for answer in users] == [str(n) for n in range(1, 944)]
    assert "Lasseter" in items[-1].explicit
    assert sum(not answer.known for answer in items) == 23
    assert all(answer.known for answer in users)
    assert all(5 <= len(answer.tags) <= 8 for answer in items)


def test_answers_ship_with_their_provenance_and_without_a_date(teacher: Teacher) -> None:
    assert (teacher.name, teacher.prompt_version) == ("recorded-1", "1")
    assert "Apache-2.0" in teacher.provenance
    assert "profile window alone" in SHIPPED.joinpath("PROVENANCE.md").read_text(encoding="utf-8")
    for name in ("items.jsonl.gz", "users.jsonl.gz"):
        assert SHIPPED.joinpath(name).read_bytes()[4:8] == b"\0\0\0\0"


def test_rejects_ids_without_an_answer(teacher: Teacher) -> None:
    questions = ask("item", "1", *(f"a{n}" for n in range(9)))
    with pytest.raises(TeacherError, match=r"lack 9 of the 10 items asked for \(the first: a0, a1, a2, a3, a4\)"):
        teacher.answer(questions)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (("shop",), "no recorded answers for the dataset 'shop'; there are for ml-100k"),
        (("ml-100k", 0.3), r"saw the first 0\.5 of each user's events, .* profile_window of 0\.3"),
    ],
)
def test_rejects_other_datasets_and_shorter_windows(config: tuple[str, float], message: str) -> None:
    with pytest.raises(TeacherError, match=message):
        RecordedTeacher(config_of(*config))
    RecordedTeacher(config_of("ml-100k", window=0.6))


def test_rejects_damaged_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "ml-100k"
    copy.mkdir()
    for name in ("answers.json", "items.jsonl.gz"):
        copy.joinpath(name).write_bytes(SHIPPED.joinpath(name).read_bytes()[:9000])
    monkeypatch.setattr("msd.teachers.recorded._answers", lambda: tmp_path)
    teacher = RecordedTeacher(config_of("ml-100k"))
    with pytest.raises(TeacherError, match=r"items\.jsonl\.gz for 'ml-100k' are damaged"):
        teacher.answer(ask("item", "1"))


def test_rejects_questions_about_users_if_the_split_is_given() -> None:
    given = config_of("ml-100k").model_copy(update={"split": SplitConfig(column="fold")})
    teacher = RecordedTeacher(given)
    assert [answer.id for answer in answers(teacher, *ask("item", "1"))] == ["1"]
    with pytest.raises(TeacherError, match="a split given by a column may have put into any part"):
        teacher.answer(ask("user", "1"))
