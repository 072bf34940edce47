"""A page of four by a known law, through events, log, join, training and export: scores are those of the law at the
first place, because the log keeps where each ad was shown; and for anonymous visitors, whose impressions train."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from msd.contract.log import EventRecord
from msd.dataset.load import load_dataset
from msd.feedback.dataset import describe, with_parts, write_dataset
from msd.feedback.files import read_events, read_requests
from msd.feedback.impressions import Windows, join
from msd.feedback.scored_bundle import ScoredBundle
from service.request_log.files import encode
from service.request_log.request_log import LoggedEvents, records_of
from service.routes.events_route import parse_events
from tests.dataset.small import feature
from tests.feedback.made import requests
from tests.ranker.brief import brief_tastes  # noqa: F401 - a fixture
from tests.service.live import run_msd

START, DAY, ADS, SLOTS = 1_700_000_000, 86_400, 24, 4
EXAMINED = np.array([1.0, 0.55, 0.3, 0.15])
"""The law: an ad is clicked if its slot is examined, and it is relevant."""
STRANGERS = 0.5
"""Relevance of ads to anonymous visitors, as a multiple."""
CONFIG = """format = 1
name = "page"

[events]
file = "events.csv"

[items]
file = "items.csv"

[split]
column = "part"
"""
CONFIG += feature("position", "context", "categorical") + "serving_value = 1\n"


class Pages:
    """Pages of four different ads, whose relevance only the law knows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rng = folder, np.random.default_rng(0)
        self.relevance = self.rng.uniform(0.3, 0.7, ADS)

    def shown(self, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ads of some pages [n, 4], and whether they were clicked; `factors` [n] of their relevance."""
        ads = np.argsort(self.rng.random((len(factors), ADS)), axis=1)[:, :SLOTS]
        return ads, self.rng.random(ads.shape) < factors[:, None] * self.relevance[ads] * EXAMINED

    def write_past(self, count: int) -> Path:
        data = self.folder / "data"
        data.mkdir()
        (data / "dataset.toml").write_text(CONFIG, "utf-8")
        (data / "items.csv").write_text("item_id\n" + "".join(f"i{ad}\n" for ad in range(ADS)), "utf-8")
        ads, clicked = self.shown(np.ones(count))
        events = pl.DataFrame(
            {
                "user_id": [f"u{page % 400}" for page in range(count) for _ in range(SLOTS)],
                "item_id": [f"i{ad}" for ad in ads.ravel()],
                "at": START - DAY + np.repeat(np.arange(count), SLOTS),
                "label": clicked.ravel().astype(int),
                "position": np.tile(np.arange(1, SLOTS + 1), count),
            }
        )
        with_parts(events.lazy(), len(events)).collect().write_csv(data / "events.csv")
        return data

    def write_day(self, count: int, known: float, strangers: float) -> Path:
        """The log of a day whose events a service took. `known`: share of pages whose positions were sent; `strangers`:
        of those of anonymous visitors."""
        log = self.folder / "log"
        log.mkdir()
        is_strange = self.rng.random(count) < strangers
        ads, clicked = self.shown(np.where(is_strange, STRANGERS, 1.0))
        asked, told = [], []
        for page in range(count):
            ids, at = [f"i{ad}" for ad in ads[page]], START + 10.0 * page
            user = None if is_strange[page] else f"u{page % 400}"
            body = json.dumps({"user_id": user, "candidates": {"id": ids}}).encode()
            asked.append(
                {"request_id": f"r{page}", "user_id": user or "", "item_ids": ids, "received_at": at, "at": at}
                | {"request": body, "bids": None, "scores": [[0.1] * SLOTS]}
            )
            for place, ad in enumerate(ids):
                event = {"event_id": f"{page}-{place}", "user_id": user, "item_id": ad, "request_id": f"r{page}"}
                where = {"position": place + 1} if page * known % 1 == 0 else {}
                told.append({**event, **where, "type": "impression", "at": at + 1})
                if clicked[page, place]:
                    told.append({**event, "type": "click", "at": at + 9})
        requests(*asked).write_parquet(log / "requests-1.parquet")
        records: list[EventRecord] = []
        for start in range(0, len(told), 1_000):
            body = json.dumps({"events": told[start:][:1_000]}).encode()
            records += records_of(LoggedEvents(body, len(parse_events(body)), 0.0))
        (log / "events-1.parquet").write_bytes(encode(records))
        return log

    def ratios(self, scorer: ScoredBundle, users: list[str | None]) -> np.ndarray:
        """Predicted clicks of all ads ÷ those of the law for known users, by place."""
        ids, sums = [f"i{ad}" for ad in range(ADS)], np.zeros(SLOTS)
        row = {"request_id": "r", "item_ids": ids, "at": START + 60_000.0}
        for user in users:
            body = json.dumps({"user_id": user, "candidates": {"id": ids}}).encode()
            scores = scorer.score_shown(row | {"request": body}, None, range(1, SLOTS + 1))
            assert scores is not None, "the bundle knows all of it"
            assert np.array_equal(scores.served["pctr"], scores.shown[1]["pctr"])
            sums += [scores.shown[place]["pctr"].sum() for place in range(1, SLOTS + 1)]
        found: np.ndarray = sums / (len(users) * self.relevance.sum() * EXAMINED)
        return found


def test_night_keeps_the_first_place_calibrated(tmp_path: Path) -> None:
    """Half of the pages have no positions, and four in ten visitors are anonymous."""
    pages, known = Pages(tmp_path), 0.5
    old, log = load_dataset(pages.write_past(500)), pages.write_day(5_000, known, strangers=0.4)
    joined = join(
        read_requests([log], ("request",)),
        read_events([log]),
        Windows(),
        describe=partial(describe, config=old.config),
    )
    assert joined.told["impressions_without_position"] == (1 - known) * SLOTS * 5_000
    write_dataset(joined.frame, old, tmp_path / "new", by_time=True)
    for line in (
        ("train", tmp_path / "new", tmp_path / "model", "--no-semantics", "--epochs", "6"),
        ("export", tmp_path / "new", tmp_path / "model", tmp_path / "bundle", "--requests", "20"),
    ):
        done = run_msd(*map(str, line))
        assert done.returncode == 0, done.stdout + done.stderr
    scorer = ScoredBundle(tmp_path / "bundle")
    ratios = pages.ratios(scorer, [f"u{user}" for user in range(100)])

    # Of the 250 valid rows of each place, which calibrate, about 100, 55, 30 and 15 are clicked.
    assert 0.87 < ratios[0] < 1.13, ratios
    assert 0.87 < pages.ratios(scorer, [None])[0] / STRANGERS < 1.13
    assert np.all(np.abs(ratios - 1) < 2.5 / np.sqrt(100 * EXAMINED)), ratios
