"""`python -m lab.bench.overhead BUNDLE`: the CPU that a plain request costs outside the model.

Of the two threads that it crosses (docs/design.md): their CPU, and its shares by the stacks that Linux's `perf` samples
in a second pass, because a switch of threads costs more while it looks. The model is what is within ONNX Runtime. One
client wakes both threads for each request; several keep them awake.
"""

import argparse
import json
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from loadtest.generator import Target, closed_loop
from loadtest.processes import Running, ours
from loadtest.requests import in_columns, some_bodies
from loadtest.traffic import Traffic

_THREADS = ("front", "scoring-1")
_MODEL = "onnxruntime"
_COUNTS, _CLIENTS = (50, 200), (1, 16)
_BODIES = 1_000
_SAMPLES_PER_S = 1_999
_SHOWN = 12


def overhead(bundle: Path, seconds: float) -> dict[str, dict[str, object]]:
    """Return microseconds a request, by numbers of candidates and clients: of the model, and of all else, with its
    largest parts."""
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder, Running(ours("ours", bundle, 1, None), Path(folder)) as service:
        for count in _COUNTS:
            target = Target(service.url, in_columns(some_bodies(Traffic(bundle, count, seed=count), _BODIES)))
            for clients in _CLIENTS:
                closed_loop(target, clients, seconds / 4)
                threads = [task for task in Path(f"/proc/{service.pid}/task").iterdir() if _name(task) in _THREADS]
                before = sum(map(_cpu_us, threads))
                requests = closed_loop(target, clients, seconds).latency.count
                each = (sum(map(_cpu_us, threads)) - before) / requests
                data = Path(folder) / "samples.perf"
                command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(_SAMPLES_PER_S), "-o", str(data)]
                command += ["--call-graph", "dwarf", "-t", ",".join(task.name for task in threads)]
                with subprocess.Popen(command) as perf:
                    closed_loop(target, clients, seconds)
                    perf.terminate()
                samples = _samples(data)
                us = each / samples.total()
                found[f"{count} candidates, {clients} clients"] = {
                    "model_us": round(us * samples.pop(_MODEL, 0), 1),
                    "else_us": round(us * samples.total(), 1),
                    "largest_us": {part: round(us * number, 1) for part, number in samples.most_common(_SHOWN)},
                }
    return found


def _name(task: Path) -> str:
    return (task / "comm").read_text("utf-8").strip()


def _cpu_us(task: Path) -> float:
    return int((task / "schedstat").read_text("utf-8").split()[0]) / 1_000


def _samples(data: Path) -> Counter[str]:
    """Return the number of samples of the model, and of each other function after its library."""
    command = ["perf", "script", "--no-inline", "-F", "ip,sym,dso", "-i", str(data)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    stacks = [stack.strip().splitlines() for stack in said.split("\n\n") if stack.strip()]
    return Counter(
        _MODEL if any(_MODEL in line for line in stack) else stack[0].split(maxsplit=1)[-1] for stack in stacks
    )


def main() -> None:
    """Measures, and prints JSON."""
    options = argparse.ArgumentParser(description=main.__doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("--seconds", type=float, default=4.0, help="Of each measurement.")
    given = options.parse_args()
    print(json.dumps(overhead(given.bundle, given.seconds), indent=1))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
