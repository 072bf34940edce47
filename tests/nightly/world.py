"""A small world whose law of clicks is known and can change: a dataset of its past, and the logs of two services."""

import json
from pathlib import Path

import numpy as np
import polars as pl

from msd.contract.bundle import open_bundle
from msd.feedback.dataset import with_parts
from msd.feedback.files import EVENT_TYPES
from service.scoring.model import load_model
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.feedback.made import requests
from tests.native.test_offline import scorer_of

START, DAY = 1_700_000_000, 86_400
USERS, ITEMS = 500, 30
CONFIG = """format = 1
name = "world"

[events]
file = "events.csv"

[items]
file = "items.csv"

[split]
column = "part"

[[features]]
name = "hour"
side = "context"
kind = "categorical"
"""


class World:
    """Items differ in appeal, a click's log-odds; `drift` gives the items other appeals."""

    def __init__(self, folder: Path) -> None:
        self.rng = np.random.default_rng(0)
        self.folder = folder
        self.appeal = self.rng.normal(-1.2, 1.2, ITEMS)

    def drift(self) -> None:
        self.appeal = -1.2 - (self.appeal + 1.2)

    def write_past(self, count: int) -> Path:
        """Write the dataset of the two days before the first night."""
        data = self.folder / "data"
        data.mkdir()
        (data / "dataset.toml").write_text(CONFIG, "utf-8")
        (data / "items.csv").write_text("item_id\n" + "".join(f"i{item}\n" for item in range(ITEMS)), "utf-8")
        at = np.sort(self.rng.integers(START - 2 * DAY, START, count))
        items = self.rng.integers(ITEMS, size=count)
        events = pl.DataFrame(
            {
                "user_id": [f"u{user}" for user in self.rng.integers(USERS, size=count)],
                "item_id": [f"i{item}" for item in items],
                "at": at,
                "label": [int(self._clicks(item)) for item in items],
                "hour": at // 3_600 % 24,
            }
        )
        with_parts(events.lazy(), count).collect().write_csv(data / "events.csv")
        return data

    def serve(
        self, night: int, bundle: Path, count: int, bots: float = 0.0, clicks: bool = True, early_s: float = 0.0
    ) -> None:
        """Write one day's logs of two pods that served the bundle: requests, and events, which may reach the other pod.
        `bots`: share of impressions that are clicked whatever they show. `clicks`: whether clicks arrive at all.
        `early_s`: by how much the clock of clicks, which then name no request, is slow."""
        model = load_model(open_bundle(bundle), Settings(bundle=bundle), Metrics())
        scorer = scorer_of(model)
        pods: tuple[list[dict[str, object]], ...] = ([], [])
        told: tuple[list[dict[str, object]], ...] = ([], [])
        for number, at in enumerate(np.sort(self.rng.uniform(START + night * DAY, START + (night + 1) * DAY, count))):
            ids = [f"i{item}" for item in self.rng.choice(ITEMS, 2, replace=False)]
            user = f"u{self.rng.integers(USERS)}" if number % 10 else None
            context = {"hour": str(int(at) // 3_600 % 24)}
            body = json.dumps({"user_id": user, "at": at, "candidates": {"id": ids}, "context": context}).encode()
            row = {
                "request_id": f"{night}-{number}",
                "user_id": user or "",
                "item_ids": ids,
                "received_at": at,
                "at": at,
            }
            row |= {"request": body, "bundle_id": model.bundle.bundle_id, "bids": None}
            scores = scorer.score(body, f"{night}-{number}").scores
            pods[number % 2].append(row | {"scores": [scores["pctr"].tolist()], "heads": ["pctr"]})
            is_clicked = self.rng.random() < bots or self._clicks(int(ids[0][1:]))
            for kind in ("impression", "click")[: 1 + (is_clicked and clicks)]:
                event = {"event_id": f"{night}-{number}", "type": kind, "user_id": user or "", "item_id": ids[0]}
                later, named = (40.0 - early_s, not early_s) if kind == "click" else (1.0, True)
                request_id = f"{night}-{number}" if named else None
                told[self.rng.integers(2)].append({**event, "at": at + later, "request_id": request_id})
        for name, rows, events in zip("ab", pods, told, strict=True):
            pod = self.folder / "logs" / name
            pod.mkdir(parents=True, exist_ok=True)
            requests(*rows).write_parquet(pod / f"requests-{night}.parquet")
            pl.DataFrame(events, schema=EVENT_TYPES).write_parquet(pod / f"events-{night}.parquet")

    def _clicks(self, item: int) -> bool:
        return bool(self.rng.random() < 1 / (1 + np.exp(-self.appeal[item])))
