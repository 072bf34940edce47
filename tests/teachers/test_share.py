"""Shares of the questions, asked by runs of their own, and joined: the folder that one run of all would have made."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.dataset.load import Dataset, load_dataset
from msd.teachers.collect import collect_knowledge
from msd.teachers.estimate import estimate
from msd.teachers.knowledge import TeacherError, load_knowledge
from msd.teachers.seeds import Seeding
from msd.teachers.share import Share, join_answers, parse_share
from msd.teachers.teacher import Question, questions_of
from tests.dataset.small import CONFIG, write_small
from tests.dataset.tiny import write_tiny_dataset
from tests.teachers.test_collect import Choosy, Parrot, ignore
from tests.teachers.test_command import teach

MADE = ("items.jsonl", "users.jsonl", "teach.json")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(write_tiny_dataset(tmp_path_factory.mktemp("tiny"), users=10))


@given(texts=st.lists(st.text(max_size=9), max_size=40), of=st.integers(1, 5))
def test_each_question_is_in_one_share_and_equal_texts_are_together(texts: list[str], of: int) -> None:
    questions = [Question("item", str(number), text) for number, text in enumerate(texts)]
    shares = [Share(part, of).of_levels([questions])[0] for part in range(1, of + 1)]

    assert sorted((one for share in shares for one in share), key=lambda one: int(one.id)) == questions
    assert sum(len({one.text for one in share}) for share in shares) == len(set(texts))


def test_joined_shares_are_what_one_run_makes_and_nobody_is_asked_again(tiny: Dataset, tmp_path: Path) -> None:
    parts = [tmp_path / f"part-{part}" for part in (1, 2, 3)]
    asked: list[Question] = []
    for part, folder in enumerate(parts, start=1):
        parrot = Parrot()
        due = estimate(tiny, parrot, folder, share=Share(part, 3))[1].questions
        collect_knowledge(tiny, parrot, folder, ignore, share=Share(part, 3))
        assert 0 < len(parrot.asked) == due
        assert len(load_knowledge(folder).items) < 79
        asked += parrot.asked
    assert len({one.text for one in asked}) == len(asked)

    assert join_answers(tmp_path / "joined", parts) == len(asked)
    assert join_answers(tmp_path / "joined", parts) == 0
    silent = Parrot(0)
    collect_knowledge(tiny, silent, tmp_path / "joined", ignore)
    collect_knowledge(tiny, Parrot(), tmp_path / "whole", ignore)
    for name in MADE:
        assert (tmp_path / "joined" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_was_refused_comes_along_and_what_is_missing_is_asked(tiny: Dataset, tmp_path: Path) -> None:
    texts = [one.text for one in questions_of(tiny)[0] if Share(1, 2).holds(one)]
    collect_knowledge(tiny, Choosy(texts[0], "[no]"), tmp_path / "part-1", ignore, share=Share(1, 2))
    join_answers(tmp_path / "joined", [tmp_path / "part-1"])
    parrot = Parrot()
    collected = collect_knowledge(tiny, parrot, tmp_path / "joined", ignore)
    assert {one.raw for one in collected.refusals} == {"[no]"}
    assert parrot.asked
    assert not any(Share(1, 2).holds(one) for one in parrot.asked)


def test_seeds_are_of_all_questions_and_have_to_be_the_same(tiny: Dataset, tmp_path: Path) -> None:
    seeding = Seeding(Parrot(), 2, lambda examples: Parrot())
    for part in (1, 2):
        collect_knowledge(tiny, Parrot(), tmp_path / f"part-{part}", ignore, seeding, Share(part, 2))
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    assert parts[0].joinpath("seeds.jsonl").read_bytes() == parts[1].joinpath("seeds.jsonl").read_bytes()
    join_answers(tmp_path / "joined", parts)
    assert (tmp_path / "joined" / "seeds.jsonl").is_file()
    (parts[1] / "seeds.jsonl").write_bytes(b"")
    with pytest.raises(TeacherError, match=r"part-2: its seeds\.jsonl is another one than that of .*joined"):
        join_answers(tmp_path / "joined", parts)
    with pytest.raises(TeacherError, match=r"part-2: its seeds\.jsonl is another one than that of .*part-1"):
        join_answers(tmp_path / "other", parts)
    assert not (tmp_path / "other").exists()


def test_a_damaged_share_leaves_nothing_behind(tmp_path: Path) -> None:
    part = tmp_path / "part-1"
    part.mkdir()
    (part / "answers.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(TeacherError, match=r"answers\.jsonl, line 1: key: is missing"):
        join_answers(tmp_path / "joined", [part])
    assert not (tmp_path / "joined").exists()


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(TeacherError, match="should be K/N, the K-th of N shares"):
        parse_share(text)


def test_the_command(tmp_path: Path) -> None:
    data = write_small(tmp_path / "data", config=CONFIG.replace('"small"', '"ml-100k"'))
    for name in ("events.csv", "users.csv"):
        (data / name).write_text((data / name).read_text("utf-8").replace("\nu", "\n"), "utf-8")
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    for number, part in enumerate(parts, start=1):
        assert teach(data, part, "--part", f"{number}/2").exit_code == 0
    joined = teach(data, tmp_path / "out", "--join", parts[0], "--join", parts[1])
    assert joined.exit_code == 0, joined.output
    assert "took 8 answers of 2 folders" in joined.output
    assert "3 items, 5 users, by recorded-1" in joined.output
    with_estimate = teach(data, tmp_path / "out", "--join", parts[0], "--estimate")
    assert "give one of them" in str(with_estimate.exception)
    nowhere = teach(data, tmp_path / "other", "--join", tmp_path / "nowhere")
    assert "holds no answers.jsonl; name a folder that `msd teach` writes" in str(nowhere.exception)
    assert not (tmp_path / "other").exists()
