"""Traffic for a service of the quick demo's bundle, with live state and log: users now like what they disliked."""

import random
import time
from contextlib import suppress

import httpx
import polars as pl

events = pl.read_parquet("runs/demo-quick/dataset/events.parquet")
films = events.group_by("item_id").agg(pl.len(), rate=pl.col("click").mean()).filter(pl.col("len") > 50)
rates = dict(films.select("item_id", "rate").iter_rows())
users = events["user_id"].unique().to_list()
with httpx.Client(base_url="http://127.0.0.1:8080") as service:
    for _ in range(600):  # until it is ready
        with suppress(httpx.ConnectError):
            if service.get("/health/ready").is_success:
                break
        time.sleep(0.1)
    for _ in range(3_000):
        ids, user = random.sample(list(rates), 5), random.choice(users)
        reply = service.post("/v1/score", json={"user_id": user, "candidates": {"id": ids}}).json()
        shown = {"user_id": user, "item_id": ids[0], "request_id": reply["request_id"], "at": time.time()}
        kinds = ["impression", "click"][: 1 + (random.random() > rates[ids[0]])]
        happened = [{"event_id": reply["request_id"], "type": kind, **shown} for kind in kinds]
        service.post("/v1/events", json={"events": happened}).raise_for_status()
