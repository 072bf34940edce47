"""Events that tell of their BidRequests: loaded as a service would have read them, without anonymous ones."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from msd.contract.openrtb import context_of, identity_of, impressions_of
from msd.dataset.check import check_dataset
from msd.dataset.config import load_config
from msd.dataset.load import load_dataset
from msd.dataset.problem import DatasetError
from tests.contract.bid_requests import bid_request, tcf
from tests.dataset.small import ITEMS, USERS, feature

CONFIG = """format = 1
name = "bids"

[events]
file = "events.parquet"

[items]
file = "items.csv"

[openrtb]
column = "bid_request"
user_id = ["user.buyeruid", "user.id"]

[openrtb.features]
device = "device.devicetype"
cat = "site.cat"
pos = "imp.banner.pos"
born = "user.yob"
"""
KINDS = {"device": "categorical", "cat": "bag", "pos": "categorical", "born": "numeric", "slot": "categorical"}
CONFIG += "".join(feature(name, "context", kind) for name, kind in KINDS.items())


def write(folder: Path, requests: list[Any], config: str = CONFIG, imps: list[Any] | None = None) -> Path:
    """A dataset of ten events of each request, the second half of them clicked."""
    count = len(requests)
    frame = pl.DataFrame(
        {
            "item_id": [1, 2] * (5 * count),
            "at": [1_700_000_000 + second for second in range(10 * count)],
            "label": [0] * (5 * count) + [1] * (5 * count),
            "slot": ["top"] * (10 * count),
            "imp_id": (imps or ["1"]) * (10 * count // len(imps or ["1"])),
            "bid_request": [request if isinstance(request, str) else json.dumps(request) for request in requests] * 10,
        }
    )
    folder.mkdir(exist_ok=True)
    frame.write_parquet(folder / "events.parquet")
    (folder / "items.csv").write_text(ITEMS)
    (folder / "users.csv").write_text(USERS)
    (folder / "dataset.toml").write_text(config)
    return folder


def test_bid_requests_are_read_like_a_service(tmp_path: Path) -> None:
    requests = [
        bid_request(),
        bid_request(user={"id": "u9", "consent": tcf(), "yob": None}, regs={"gdpr": 1}, site=None),
    ]
    folder = write(tmp_path, requests, imps=["1", "2"])
    dataset, config = load_dataset(folder), load_config(folder)
    mapping = config.openrtb
    assert mapping is not None
    columns = ["user_id", *mapping.features]
    wanted = []
    for place, request in enumerate(requests):
        imp, identity = impressions_of(request)[str(1 + place)], identity_of(mapping, request)
        context, _ = context_of(mapping, config.requested, request, imp, identity)
        wanted.append({"user_id": identity.user_id} | context)

    assert dataset.events.select(columns).head(2).rows() == [
        ("u7", "4", ["IAB1", "IAB2"], "3", 1990.0),
        ("u9", "4", None, "1", None),
    ]
    for row, told in zip(dataset.events.select(columns).head(2).iter_rows(named=True), wanted, strict=True):
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}
        assert {name: value for name, value in row.items() if value is not None} == lists
    assert dataset.events["slot"].to_list() == ["top"] * 20


def test_anonymous_events_are_counted(tmp_path: Path) -> None:
    anonymous: list[dict[str, Any]] = [{"regs": {"coppa": 1}}, {"device": {"lmt": 1}}, {"user": {}}]
    requests = [bid_request(), *(bid_request(**change) for change in anonymous)]
    report = check_dataset(write(tmp_path, requests))

    assert not report.problems
    assert report.counts["events"] == 10
    assert (report.counts["events_without_consent"], report.counts["events_without_user_id"]) == (20, 10)
    assert load_dataset(tmp_path).events["user_id"].unique().to_list() == ["u7"]


def test_values_that_do_not_fit_are_missing_and_counted(tmp_path: Path) -> None:
    requests = [bid_request(), bid_request(device={"devicetype": [4]}, site={"cat": "IAB1"})]
    report = check_dataset(write(tmp_path, requests))

    assert not report.problems
    assert report.counts["mapped_values_of_another_type"] == report.counts["events"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("{", "the body is not JSON"),
        ("[]", "should be an object"),
        (json.dumps(bid_request())[:-1] + ', "id": "twice"}', "a JSON key occurs twice"),
        (bid_request(imp=[{"id": "7"}]), "imp: has no impression '1'"),
        (bid_request(site={"cat": ["\ud800"]}), "half of a surrogate pair"),
        (bid_request(user={"id": 5}), "user.id: should be a valid string"),
    ],
)
def test_rejects_wrong_bid_request_by_row_and_path(tmp_path: Path, request_: Any, words: str) -> None:  # noqa: ANN401
    with pytest.raises(DatasetError) as refused:
        load_dataset(write(tmp_path, [bid_request(), request_]))
    first = refused.value.problems[0]

    assert (first.file, first.row, first.column) == ("events.parquet", 2, "bid_request")
    assert words in first.message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('born = "user.yob"', 'age = "user.yob"', "openrtb.features names 'age'"),
        ('pos = "imp.banner.pos"', 'pos = "imp..pos"', "openrtb.features.pos: should match pattern"),
        ('pos = "imp.banner.pos"', 'pos = "imp"', "lead to one value"),
        ('"user.buyeruid", "user.id"', '"imp.ext.user"', "not the impression's"),
        ('"user.buyeruid", "user.id"', '"user.id", ""', "openrtb.user_id[1]: should match pattern"),
        ('"user.buyeruid", "user.id"', "", "openrtb.user_id: should have at least 1 item"),
        ('column = "bid_request"', "vendor_id = 0", "openrtb.vendor_id: should be greater"),
        ('column = "bid_request"', 'columns = "a"', "openrtb.columns: unknown key; allowed are user_id, features"),
    ],
)
def test_rejects_wrong_mapping(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in CONFIG
    (tmp_path / "dataset.toml").write_text(CONFIG.replace(old, new))
    with pytest.raises(DatasetError) as refused:
        load_config(tmp_path)
    assert words in str(refused.value)


def test_rejects_missing_and_wrong_columns(tmp_path: Path) -> None:
    folder = write(tmp_path, [bid_request()])
    frame = pl.read_parquet(folder / "events.parquet")
    frame.drop("imp_id").write_parquet(folder / "events.parquet")
    with pytest.raises(DatasetError, match="imp_id: is missing"):
        load_dataset(folder)
    frame.with_columns(bid_request=pl.lit(5)).write_parquet(folder / "events.parquet")
    with pytest.raises(DatasetError, match="where the text of a BidRequest's JSON is due"):
        load_dataset(folder)
