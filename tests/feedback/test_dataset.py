"""A log becomes a dataset that trains: contexts, features and texts as requests gave them."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from msd.dataset import mapped, order
from msd.dataset.check import check_dataset
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.split import Part, split_events
from msd.feedback import dataset
from msd.feedback.dataset import describe, write_dataset
from msd.feedback.files import FeedbackError, read_requests
from msd.feedback.impressions import Joined, Windows, join
from tests.contract.bid_requests import bid_request
from tests.dataset.small import write_small
from tests.dataset.test_bid_requests import write as write_bids
from tests.dataset.tiny import write_tiny_dataset
from tests.feedback.made import events, requests

LATER = 1_750_000_000


@pytest.fixture(autouse=True, params=[2, 2**18], ids=["by-parts", "at-once"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in memory at once."""
    monkeypatch.setattr(mapped, "_TOGETHER", request.param)
    for module in (order, dataset):
        monkeypatch.setattr(module, "BLOCK", request.param)


def logged(*documents: dict[str, Any]) -> pl.DataFrame:
    """The log of some requests, each by its place as its id."""
    return requests(
        *(
            {
                "request_id": f"r{place}",
                "user_id": document["user_id"] or "",
                "item_ids": document["candidates"]["id"],
                "bids": None,
                "scores": [[0.5] * len(document["candidates"]["id"])],
                "request": json.dumps(document).encode(),
            }
            for place, document in enumerate(documents)
        )
    )


def described(log: list[pl.DataFrame], shown: pl.DataFrame, old: Dataset, *, has_conversions: bool = False) -> Joined:
    """The impressions of a log, with what its requests said."""
    say = partial(describe, config=old.config)
    return join(log, [shown], Windows(), has_conversions=has_conversions, describe=say)


def made(
    old: Path, out: Path, documents: list[dict[str, Any]], clicked: tuple[int, ...] = (), *, log_only: bool = False
) -> Dataset:
    """The dataset of a log whose every request had its first candidate shown, and some clicked."""
    log = logged(*documents)
    rows = [
        ("impression", document["candidates"]["id"][0], LATER + place, f"r{place}")
        for place, document in enumerate(documents)
    ]
    rows += [("click", documents[place]["candidates"]["id"][0], LATER + place + 5, f"r{place}") for place in clicked]
    was = load_dataset(old)
    write_dataset(described([log], events(*rows), was).frame, was, out, log_only=log_only)
    return load_dataset(out)


def asks(user_id: str, /, *items: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"user_id": user_id, "candidates": {"id": list(items)}, **more}


def test_keeps_bid_request_mapping_and_anonymous_impressions(tmp_path: Path) -> None:
    old = write_bids(tmp_path / "old", [bid_request()])
    log = tmp_path / "requests-1.parquet"
    new_ad = {"new ad": {"features": {"genres": ["Drama"]}, "text": "words"}}
    documents = [asks("u7", "1", context={"device": "4", "cat": ["IAB1"]}), asks("u8", "2"), asks("", "1")]
    documents[2] |= {"user_id": None, "items": new_ad, "user": {"features": {"age": 3}}}
    logged(*documents).write_parquet(log)
    (read,) = read_requests([log], ("request",))
    shown = events(*(("impression", str(1 + place % 2), LATER + place, f"r{place}") for place in range(3)))
    joined = described([read], shown, load_dataset(old))
    write_dataset(joined.frame, load_dataset(old), tmp_path / "new")
    dataset = load_dataset(tmp_path / "new")

    assert read["user_id"].to_list() == ["u7", "u8", "\0r2"]
    assert dataset.events.filter(pl.col("at") >= LATER)["user_id"].to_list() == ["u7", "u8", "\0r2"]
    assert joined.told["anonymous_impressions"] == 1
    was, now = load_dataset(old).config.openrtb, dataset.config.openrtb
    assert was is not None
    assert now is not None
    assert (now.column, now.mapping) == (None, was.mapping)


def test_dataset_continues_the_old_one(tmp_path: Path) -> None:
    old = write_small(tmp_path / "old")
    documents = [
        asks("u1", "1", "2", context={"device": "android"}),
        asks("u2", "2"),
        asks("new user", "1", context={"device": None}),
    ]
    dataset = made(old, tmp_path / "new", documents, clicked=(0,))
    was = load_dataset(old)

    assert dataset.events.height == was.events.height + 3
    fresh = dataset.events.filter(pl.col("at") >= LATER)
    assert fresh.select("user_id", "item_id", "label", "device").rows() == [
        ("u1", "1", 1, "android"),
        ("u2", "2", 0, None),
        ("new user", "1", 0, None),
    ]
    assert dataset.events.filter(pl.col("at") < LATER).select(was.events.columns).equals(was.events)
    assert dataset.items.select(was.items.columns).equals(was.items)
    assert dataset.users.select(was.users.columns).equals(was.users)
    assert not check_dataset(tmp_path / "new").problems
    assert len(split_events(dataset.events, dataset.config)) == dataset.events.height


def test_requests_update_users_and_items(tmp_path: Path) -> None:
    old = write_small(tmp_path / "old")
    documents = [
        asks("u1", "ad", items={"ad": {"text": "A brand new ad", "features": {"tags": ["fresh"], "price": 3}}}),
        asks("u1", "1", user={"features": {"city": "Bath"}}, items={"1": {"features": {"price": None}, "text": "x"}}),
        asks("u9", "2", user={"features": {"city": 7}}),
        asks("u9", "2", user=None, items=None, context=None),
    ]
    dataset = made(old, tmp_path / "new", documents)
    items = {row["item_id"]: row for row in dataset.items.iter_rows(named=True)}
    users = {row["user_id"]: row["city"] for row in dataset.users.iter_rows(named=True)}

    assert items["ad"] == {"item_id": "ad", "title": None, "text": "A brand new ad", "tags": ["fresh"], "price": 3.0}
    assert (items["1"]["text"], items["1"]["price"]) == ("Tent, camping, outdoor", None)
    assert (users["u1"], users["u2"], users["u9"]) == ("Bath", "York", "7")


def test_log_only_and_repeated_joins(tmp_path: Path) -> None:
    old = write_small(tmp_path / "old")
    documents = [asks(f"u{place % 5 + 1}", str(place % 2 + 1)) for place in range(30)]
    first = made(old, tmp_path / "first", documents, clicked=tuple(range(0, 30, 4)))
    alone = made(old, tmp_path / "alone", documents, log_only=True)
    again = made(tmp_path / "first", tmp_path / "again", documents, clicked=(1,))

    assert alone.events.height == 30
    assert again.events.height == first.events.height
    assert again.events.filter(pl.col("at") >= LATER)["label"].sum() == 1


def test_columns_and_settings_are_carried_over(tmp_path: Path) -> None:
    old = write_tiny_dataset(tmp_path / "old", users=2, items=8, each=10)
    path, words = old / "dataset.toml", 'quo\\"te \\u007f \\n \\U0001F600'
    path.write_text(path.read_text("utf-8").replace("made up", words))
    document = asks("u1", "1", context={"device": 'quo"te\n\x7f✓', "hour": 7})
    dataset = made(old, tmp_path / "new", [document, asks("u2", "2")])
    was = load_dataset(old).config

    assert dataset.config.description == 'quo"te \x7f \n \U0001f600'
    tables = {"events": None, "items": None, "users": None}
    features = [feature.model_copy(update={"column": None}) for feature in was.features]
    assert dataset.config.model_copy(update=tables) == was.model_copy(update={**tables, "features": features})
    first, second = dataset.events.filter(pl.col("at") >= LATER).iter_rows(named=True)
    assert (first["device"], first["hour"], first["position"]) == ('quo"te\n\x7f✓', 7.0, None)
    assert (second["device"], second["hour"], second["position"]) == (None, None, None)


@pytest.mark.parametrize(
    ("kind", "served", "due"),
    [
        ("categorical", '"1"', ["3", None, "1"]),
        ("categorical", "0", ["2", None, "0"]),
        ("numeric", "1", [3.0, None, 1.0]),
        ("numeric", "0", [2.0, None, 0.0]),
    ],
)
def test_positions_are_those_of_the_log_and_missing_where_it_has_none(
    tmp_path: Path, kind: str, served: str, due: list[object]
) -> None:
    old = write_tiny_dataset(tmp_path / "old", users=2, items=8, each=10)
    path = old / "dataset.toml"
    was = 'kind = "categorical"\nserving_value = "1"'
    assert was in path.read_text("utf-8")
    path.write_text(path.read_text("utf-8").replace(was, f'kind = "{kind}"\nserving_value = {served}'), "utf-8")
    rows = [("impression", "1", LATER + n, f"r{n}", f"e{n}", place) for n, place in enumerate((3, None, 1))]
    data = load_dataset(old)
    joined = described([logged(*(asks(f"u{n}", "1") for n in range(3)))], events(*rows), data)
    write_dataset(joined.frame, data, tmp_path / "new")
    found = load_dataset(tmp_path / "new")

    assert found.events.filter(pl.col("at") >= LATER)["position"].to_list() == due
    assert found.config.position == "position"
    assert found.config.side("context")[-1].serving_value is not None, "what requests are scored at stays"


def test_rejects_used_folder_and_invalid_log(tmp_path: Path) -> None:
    old = write_small(tmp_path / "old")
    with pytest.raises(FeedbackError, match="is there already"):
        made(old, old, [asks("u1", "1")])

    log = logged(asks("u1", "1")).with_columns(request=pl.lit(b"[]"))
    with pytest.raises(FeedbackError, match="request r0 is not a request"):
        described([log], events(("impression", "1", LATER, "r0")), load_dataset(old))


def test_conversions_become_columns(tmp_path: Path) -> None:
    log = logged(asks("u1", "1"), asks("u2", "2"))
    rows = [(kind, str(place + 1), LATER + place, f"r{place}") for kind in ("impression", "click") for place in (0, 1)]
    without = load_dataset(write_small(tmp_path / "old"))
    shown = events(*rows, ("conversion", "1", LATER + 900.5, "r0"))
    worth = shown.with_columns(value=pl.when(pl.col("type") == "conversion").then(7.5))
    joined = described([log], worth, without).frame

    with pytest.raises(FeedbackError, match="the log says which clicks converted, and the dataset does not"):
        write_dataset(joined, without, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    write_dataset(joined, without, tmp_path / "first", log_only=True)
    write_dataset(joined, load_dataset(tmp_path / "first"), tmp_path / "second")
    found = load_dataset(tmp_path / "second").events

    columns = ("conversion", "converted_at", "conversion_value")
    assert found.select(columns).rows() == [(1, LATER + 900, 7.5), (0, None, None)]


def test_window_slides_and_later_rows_are_split_by_time(tmp_path: Path) -> None:
    old = load_dataset(write_small(tmp_path / "old"))
    documents = [asks(f"u{place % 5 + 1}", "1") for place in range(200)]
    rows = [("impression", "1", LATER + place, f"r{place}") for place in range(200)]
    joined = described([logged(*documents)], events(*rows), old).frame
    write_dataset(joined, old, tmp_path / "new", since=LATER + 50, by_time=True)
    dataset = load_dataset(tmp_path / "new")
    parts = split_events(dataset.events, dataset.config)

    assert dataset.events["at"].min() == LATER + 50
    assert np.bincount(parts).tolist() == [75, 67, 7, 1]
    assert parts[-1] == Part.TRAIN
