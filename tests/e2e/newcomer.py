"""A newcomer's log of any size to a scored HTTP request: minutes and memory of each step, as JSON.

`python -m tests.e2e.newcomer --rows 1000000 --folder FOLDER`
"""

import argparse
import csv
import gzip
import json
import math
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from msd.demo.steps import serve

START = 1_714_550_400
USERS, ADS, HOURS = 20_000, 2_000, 24
MB = 1024


def write_log(folder: Path, rows: int, parts: int = 4) -> Path:
    """Impressions without a text, in packed parts by day; the odds of a click are known: ad, hour and device."""
    draws = random.Random(11)
    appeal = [draws.gauss(-2.2, 0.8) for _ in range(ADS)]
    for number in range(parts):
        place = folder / f"day={number}"
        place.mkdir(parents=True, exist_ok=True)
        with gzip.open(place / "part.csv.gz", "wt", compresslevel=1, newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("user_id", "ad_id", "ts", "hour", "device", "price", "click"))
            for row in range(number * rows // parts, (number + 1) * rows // parts):
                ad, hour, device = int(ADS * draws.random() ** 2), row // 40 % HOURS, draws.choice(("ios", "android"))
                odds = appeal[ad] + 0.4 * math.sin(hour / HOURS * 2 * math.pi) + 0.3 * (device == "ios")
                click = int(draws.random() < 1 / (1 + math.exp(-odds)))
                user = f"u{draws.randrange(USERS)}"
                writer.writerow(
                    (user, f"a{ad}", START + row * 90 * 1_000_000 // rows, hour, device, ad % 97 + 0.5, click)
                )
    return folder


def measured(*arguments: str | Path) -> dict[str, Any]:
    """`msd ARGUMENTS` in a process of its own: seconds, CPU seconds, and the most memory that it held, in MB."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "msd", *map(str, arguments)], stdout=sys.stderr)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"msd {arguments[0]} ended with status {status}")
    seconds = {"seconds": round(time.perf_counter() - start, 1), "cpu_seconds": round(used.ru_utime + used.ru_stime, 1)}
    return seconds | {"peak_mb": used.ru_maxrss // MB}


def main() -> None:
    """Writes the log, runs the quickstart on it, and scores its request over HTTP."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--log", type=Path, help="a log of one's own instead")
    given = parser.parse_args()
    log = given.log or write_log(given.folder / "log", given.rows)
    whole = measured("quickstart", log, "--out", given.folder / "out", "--no-serve")
    found = json.loads((given.folder / "out/quickstart.json").read_text("utf-8"))
    with serve(given.folder / "out/bundle", given.folder / "serve.log") as (url, _):
        reply = httpx.post(f"{url}/v1/score", json=found["request"], trust_env=False)
    served = {"status": reply.status_code, "degraded": reply.json().get("degraded")}
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // MB
    report = {**whole, "peak_mb": max(peak, whole["peak_mb"]), "served": served}
    steps = {"planned": found["planned"], "steps": found["seconds"]}
    print(json.dumps({**report, **steps, "verdict": found["verdict"]}, indent=2))  # noqa: T201 - a program


if __name__ == "__main__":
    main()
