"""The instant demo: a bundle of invented ads, made by `msd lab instant`, served with its playground."""

import json
import shlex
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from msd.demo.service import DemoError, score_texts, serve

BUNDLE = Path(__file__).parent / "bundle"
REQUEST: Mapping[str, Any] = {
    "user_id": "gardener",
    "at": 1_769_817_600,
    "context": {"device": "ios", "hour": "20"},
    "candidates": {
        "id": ["greenhouses-1", "ice-axes-1", "seed-boxes-2", "new-ad", "new-text"],
        "bid": [0.40, 0.40, 0.40, 0.40, 0.40],
    },
    "items": {
        "new-ad": {"features": {"category": "home", "price": 30}},
        "new-text": {
            "text": "Plant these roses in your garden this spring",
            "features": {"category": "home", "price": 30},
        },
    },
}
WHAT = {
    "greenhouses-1": "an ad for what the user's clicks show",
    "ice-axes-1": "an ad for something else",
    "seed-boxes-2": "a rare ad: the teacher has described it, hardly anyone has seen it",
    "new-ad": "a new ad, known by two features",
    "new-text": "a new ad, known by its text as well",
}


def serve_instant(port: int) -> None:
    """Serve the bundle until interrupted; show one scored request first. Raises DemoError."""
    if any(find_spec(module) is None for module in ("onnxruntime", "tokenizers")):
        raise DemoError("the instant demo scores with onnxruntime and tokenizers: pip install 'msd-ctr[cpu,encode]'")
    start, console = time.perf_counter(), Console(highlight=False, soft_wrap=True)
    with (
        TemporaryDirectory() as folder,
        serve(BUNDLE, Path(folder) / "service.log", "--playground", port=port, MSD_ENCODER="on") as (url, process),
    ):
        reply = score_texts(url, REQUEST, ["new-text"])
        console.print(_table(reply))
        console.print(
            f"These ads, users and clicks are [bold]invented[/]. Scored {time.perf_counter() - start:.1f} s after the "
            f"start; again:\n\ncurl -s {url}/v1/score -H 'Content-Type: application/json' "
            f"-d {shlex.quote(json.dumps(REQUEST))}\n\nServing on {url} (/playground, /docs) until Ctrl-C."
        )
        with suppress(KeyboardInterrupt):
            process.wait()


def _table(reply: Mapping[str, Any]) -> Table:
    table = Table(title=f"Ads for the user {REQUEST['user_id']!r}, who has clicked on gardening", title_justify="left")
    for name in ("ad", "what it is", "pCTR", "scored from"):
        table.add_column(name)
    candidates, degraded = reply["candidates"], reply.get("degraded", {}).get("candidates", {})
    for ad, pctr in zip(candidates["id"], candidates["pctr"], strict=True):
        table.add_row(ad, WHAT[ad], f"{pctr:.1%}", degraded.get(ad, "its row"))
    return table
