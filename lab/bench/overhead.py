"""`python -m lab.bench.overhead BUNDLE`: the CPU that a plain request costs outside the model.

Samples the two threads that it crosses (docs/design.md) with Linux's `perf`; what ONNX Runtime takes is the model.
"""

import argparse
import json
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from loadtest.http_client import measure_latency
from loadtest.processes import Running, ours
from loadtest.requests import some_bodies
from loadtest.traffic import Traffic

_THREADS = ("front", "scoring-1")
_MODEL = "onnxruntime"
_COUNTS = (50, 200)
_SAMPLES_PER_S = 5_000
_SHOWN = 12


def overhead(bundle: Path, requests: int) -> dict[str, dict[str, object]]:
    """Return microseconds a request, by number of candidates: of the model, and of all else, with its largest parts."""
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder, Running(ours("ours", bundle, 1, None), Path(folder)) as service:
        for count in _COUNTS:
            bodies = list(some_bodies(Traffic(bundle, count, seed=count), requests))
            measure_latency(service.url, bodies[: requests // 4])
            data = Path(folder) / f"{count}.perf"
            threads = [task for task in Path(f"/proc/{service.pid}/task").iterdir() if _name(task) in _THREADS]
            command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(_SAMPLES_PER_S), "-o", str(data)]
            with subprocess.Popen([*command, "-t", ",".join(task.name for task in threads)]) as perf:
                before = sum(map(_cpu_us, threads))
                measure_latency(service.url, bodies)
                each = (sum(map(_cpu_us, threads)) - before) / requests
                perf.terminate()
            parts = Counter({part: each * share for part, share in _shares(data)})
            model = sum(us for part, us in parts.items() if _MODEL in part)
            others = [(part, round(us, 1)) for part, us in parts.most_common() if _MODEL not in part]
            found[str(count)] = {
                "model_us": round(model, 1),
                "else_us": round(each - model, 1),
                "largest_us": dict(others[:_SHOWN]),
            }
    return found


def _name(task: Path) -> str:
    return (task / "comm").read_text("utf-8").strip()


def _cpu_us(task: Path) -> float:
    return int((task / "schedstat").read_text("utf-8").split()[0]) / 1_000


def _shares(data: Path) -> list[tuple[str, float]]:
    """Return the share of the samples of each function, after its library."""
    command = ["perf", "report", "-q", "--stdio", "-F", "overhead,dso,sym", "-t", "|", "-i", str(data)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    fields = [[field.strip() for field in line.split("|")] for line in lines if line.count("|") == 2]
    return [(f"{library} {symbol}", float(share.rstrip("%")) / 100) for share, library, symbol in fields]


def main() -> None:
    """Measures, and prints JSON."""
    options = argparse.ArgumentParser(description=main.__doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("--requests", type=int, default=4_000)
    given = options.parse_args()
    print(json.dumps(overhead(given.bundle, given.requests), indent=1))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
