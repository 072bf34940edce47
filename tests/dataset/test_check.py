"""`msd data check`: problems, counts and notes on gaps, as a table and as JSON."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from msd.dataset.check import check_dataset
from msd.dataset.command import app
from tests.dataset.small import CONFIG, EVENTS, ITEMS, USERS, feature, spoil, write_small
from tests.dataset.tiny import write_tiny_dataset


def test_valid_dataset_has_counts_and_no_problems(tmp_path: Path) -> None:
    report = check_dataset(write_tiny_dataset(tmp_path))
    looks, *few = report.notes
    assert report.problems == ()
    assert looks.startswith("0% of the rows are of users seen once")
    assert "the log is cut in time" in looks
    assert [note.split(" to ")[0] for note in few] == [
        "the valid part has only 122 clicks in 300 events",
        "the test part has only 134 clicks in 300 events",
    ]
    counts = report.counts
    assert (counts["events"], counts["items"], counts["users"], counts["users_with_events"]) == (3000, 80, 60, 60)
    assert counts["items_without_text"] == 1
    assert counts["missing_device"] == 152
    assert (counts["window_events"], counts["test_events"]) == (1500, 300)
    assert counts["first_event"] == "2024-03-01T00:00:04+00:00"
    rate = counts["click_rate"]
    assert isinstance(rate, float)
    assert 0.3 < rate < 0.6


def test_unknown_repeated_and_cold_ids_are_counted(tmp_path: Path) -> None:
    last = EVENTS.splitlines()[-1]
    events = EVENTS + f"{last}\nu1,77,1700000099,1,\nu9,1,1700000099,0,\n"
    report = check_dataset(write_small(tmp_path, events=events, items=ITEMS, users=USERS))
    assert report.problems == ()
    cold = {"test_events_of_cold_items": 1, "test_events_of_cold_users": 1}
    unknown = {"events_of_unknown_items": 1, "events_of_unknown_users": 1}
    assert report.counts.items() >= {**cold, **unknown, "repeated_events": 1, "missing_device": 2}.items()


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_check_command_prints_json(tmp_path: Path) -> None:
    folder = write_small(tmp_path, events=spoil(EVENTS, 7, "at", "noon"))
    code, output = run("check", folder, "--json")
    assert code == 1
    report = json.loads(output)
    assert report["ok"] is False
    message = "'noon' is neither unix seconds nor an ISO 8601 time"
    assert report["problems"] == [{"file": "events.csv", "row": 7, "column": "at", "message": message}]
    assert report["counts"]["items"] == 3
    assert json.loads(run("check", write_small(folder), "--json")[1])["ok"] is True


@pytest.mark.parametrize("text", ["", CONFIG.replace("format = 1", "format = 9")])
def test_rejects_folder_without_valid_configuration(tmp_path: Path, text: str) -> None:
    code, output = run("check", write_small(tmp_path, config=text))
    assert code == 1
    assert "dataset.toml" in output
    assert "format" in output


def test_check_command_groups_rows_with_the_same_fault(tmp_path: Path) -> None:
    events = "user_id,item_id,at,label,device\n" + "u1,1,5,7,ios\n" * 1200
    items = spoil(ITEMS, 1, "price", "[red]5\\[/red]")
    code, output = run("check", write_small(tmp_path, events=events, items=items))
    assert code == 1
    assert "1201 problems" in output
    assert "[red]5\\\\[/red]" in output
    assert output.count("should be 0 (no click) or 1 (click)") == 1
    assert "(and so in 1,199 more rows)" in output
    assert len(json.loads(run("check", tmp_path, "--json")[1])["problems"]) == 1201


NO_USERS = CONFIG.replace('[users]\nfile = "users.csv"\ntext = "from {city}"\n', "").replace(
    feature("city", "user", "categorical"), ""
)


def notes(folder: Path, config: str = CONFIG, events: str = EVENTS) -> str:
    report = check_dataset(write_small(folder, config=config, events=events))
    assert report.problems == ()
    assert report.as_json()["notes"] == list(report.notes)
    return "\n".join(report.notes)


@pytest.mark.parametrize(("template", "count"), [('text = "{title}, {tags}"\n', "3 items have"), ("", "0 items have")])
def test_too_few_texts_are_noted(tmp_path: Path, template: str, count: str) -> None:
    found = notes(tmp_path, CONFIG.replace('text = "{title}, {tags}"\n', template))
    assert f"{count} a text, but the student needs 10, so `msd distill` will fail" in found
    assert "`msd train DATASET OUT --no-semantics`. Or add columns to items.csv that describe an item" in found


def test_feature_without_a_value_is_noted(tmp_path: Path) -> None:
    found = notes(tmp_path, events=EVENTS.replace(",ios", ","))
    assert "device is missing in every row" in found
    assert "price is missing" not in found


def test_users_without_a_table_are_noted(tmp_path: Path) -> None:
    found = notes(tmp_path, NO_USERS, EVENTS.replace("\nu1", "\nv1").replace("v1,1,1700000001,1", "v1,1,1700000001,0"))
    assert "only clicks are known of users: 5 of 5 users have one in the profile window" in found


def test_parts_without_both_labels_are_noted(tmp_path: Path) -> None:
    found = notes(tmp_path)
    assert "the train part has only 20 clicks in 40 events to train on" in found
    assert "there is nothing to choose an epoch and calibrate by, and `msd train` will fail" in found
    assert "the test part has only clicks in 5 events, so there is nothing to measure a model on" in found
