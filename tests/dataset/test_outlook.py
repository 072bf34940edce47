"""What `msd data check` says follows from gaps: no texts, no users table, hardly a click."""

from pathlib import Path

import pytest

from msd.dataset.check import check_dataset
from tests.dataset.small import CONFIG, EVENTS, write_small
from tests.dataset.tiny import write_tiny_dataset

NO_USERS = CONFIG.replace('[users]\nfile = "users.csv"\ntext = "from {city}"\n', "").replace(
    '[[features]]\nname = "city"\nside = "user"\nkind = "categorical"\n', ""
)


def notes(folder: Path, config: str = CONFIG, events: str = EVENTS) -> str:
    report = check_dataset(write_small(folder, config=config, events=events))
    assert report.problems == ()
    assert report.as_json()["notes"] == list(report.notes)
    return "\n".join(report.notes)


def test_a_dataset_without_gaps_has_no_notes(tmp_path: Path) -> None:
    assert check_dataset(write_tiny_dataset(tmp_path)).notes == ()


@pytest.mark.parametrize(("template", "count"), [('text = "{title}, {tags}"\n', "3 items have"), ("", "0 items have")])
def test_too_few_texts_for_a_student(tmp_path: Path, template: str, count: str) -> None:
    found = notes(tmp_path, CONFIG.replace('text = "{title}, {tags}"\n', template))
    assert f"{count} a text, but the student needs 10, so `msd distill` will fail" in found
    assert (
        "Train without it: `msd train DATASET OUT --no-semantics`. Or add columns to items.csv that describe an item"
        in found
    )


def test_users_known_by_their_clicks_alone(tmp_path: Path) -> None:
    found = notes(tmp_path, NO_USERS, EVENTS.replace("\nu1", "\nv1").replace("v1,1,1700000001,1", "v1,1,1700000001,0"))
    assert "only clicks are known of users: 5 of 5 users have one in the profile window" in found


def test_parts_that_nothing_can_be_learned_or_measured_on(tmp_path: Path) -> None:
    found = notes(tmp_path)
    assert "the train part has only 20 clicks to train on" in found
    assert "the valid part has no click in 5 events, so there is nothing to choose an epoch" in found
    assert "the test part has only clicks in 5 events, so there is nothing to measure a model on" in found


@pytest.mark.parametrize(("label", "what"), [(0, "have no click"), (1, "are clicks")])
def test_events_of_one_label_are_a_problem(tmp_path: Path, label: int, what: str) -> None:
    events = EVENTS.replace(",1,ios", f",{label},ios").replace(",0,ios", f",{label},ios")
    report = check_dataset(write_small(tmp_path, events=events))
    assert [str(problem) for problem in report.problems] == [
        f"events.csv, label: all 50 events {what}: there is nothing to learn"
    ]
