"""`msd join`: joins logged requests with events, as training data, by arm, or to estimate a policy's value."""

import json
import time
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from msd.contract.bundle import MANIFEST, read_manifest
from msd.dataset.conversions import has_conversions
from msd.dataset.load import load_dataset
from msd.feedback.arms import METRICS, PER, compare, plain, ratio_mismatch
from msd.feedback.arms_report import arms_table, differences_table, mismatch_text, policy_table, support_text
from msd.feedback.collect import Events, Logs, WindowHours, collected
from msd.feedback.dataset import describe, write_dataset
from msd.feedback.files import POLICY_COLUMNS, FeedbackError, read_events, read_requests
from msd.feedback.impressions import Joined, Windows, join
from msd.feedback.outcomes import EARLY, UNJOINED, say_unjoined
from msd.feedback.policy_value import explored_requests, read_target, support, value_of

app = typer.Typer(add_completion=False)


class By(StrEnum):
    """Grouping of impressions."""

    ARM = "arm"
    POLICY = "policy"


@app.command("join")
def main(
    logs: Logs,
    events: Events = None,
    by: Annotated[
        By | None,
        typer.Option(help="Compare the arms of an experiment, or estimate a policy's value from explored requests."),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --by policy: what to put first by request, as request_id, item_id and probability (JSONL or"
            " Parquet). Default: the best by the logged scores.",
        ),
    ] = None,
    bundle: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="With --by policy: a served bundle, for the pricing it declares; repeatable."),
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The dataset that the model was trained on, to extend.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The dataset to write: a new or empty folder.")
    ] = None,
    log_only: Annotated[bool, typer.Option("--log-only", help="Leave the old dataset's events out.")] = False,
    window_hours: WindowHours = 24.0,
    conversion_days: Annotated[
        float, typer.Option(min=0, help="Days after a click in which its conversion counts.")
    ] = 30.0,
    settle_hours: Annotated[
        float, typer.Option(min=0, help="Hours for which an impression waits for its click before it is joined.")
    ] = 1.0,
    conversion_settle_hours: Annotated[
        float, typer.Option(min=0, help="With conversions: hours for which an impression waits for them, too.")
    ] = 24.0,
    champion: Annotated[
        str, typer.Option(help="With --by arm: the arm that the others are compared with.")
    ] = "champion",
    shares: Annotated[
        str | None, typer.Option(metavar="ARM=SHARE,…", help="With --by arm: the intended share of users per arm.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --by: print the figures as JSON.")] = False,
) -> None:
    """Join impressions and clicks to the requests that led to them: to a dataset for `msd train`, or by arm."""
    if (by is None) == (out is None) or (out is not None and dataset is None):
        raise typer.BadParameter("give --dataset and --out for training data, or --by arm, or --by policy")
    if target is not None and by != By.POLICY:
        raise typer.BadParameter("--target goes with --by policy")
    console = Console(stderr=as_json)
    windows = Windows(
        3_600 * window_hours,
        86_400 * conversion_days,
        3_600 * settle_hours,
        3_600 * conversion_settle_hours,
        time.time(),
    )
    old = load_dataset(dataset) if dataset is not None and out is not None else None
    with collected(logs) as folders:
        joined = join(
            read_requests(folders, ("pricing", "request") if old else ("pricing",)),
            read_events(events or folders),
            windows,
            has_conversions=old is not None and has_conversions(old.events),
            describe=partial(describe, config=old.config) if old else None,
        )
        _tell(console, joined.told)
        if out is not None and old is not None:
            rows = write_dataset(joined.frame, old, out, log_only=log_only)
            told = joined.told["joined_impressions"]
            console.print(f"{out}: {rows} events, {told} of them from the log; then: msd train", highlight=False)
        elif by == By.POLICY:
            _by_policy(console, folders, joined, target, bundle or [], as_json)
        else:
            _by_arm(console, joined, champion, _shares(shares), as_json)


def _by_policy(
    console: Console, logs: list[Path], joined: Joined, target: Path | None, bundles: list[Path], as_json: bool
) -> None:
    told: dict[str, int] = {}
    manifests = [read_manifest(folder / MANIFEST) for folder in bundles]
    formulas = {one.bundle_id: one.formula for one in manifests}
    policy = read_target(target) if target else None
    rows = explored_requests(read_requests(logs, POLICY_COLUMNS), joined.frame, policy, told, formulas)
    supported, values = support(rows), {name: value_of(rows, name, PER[name]) for name in METRICS}
    if as_json:
        told = {**joined.told, **told, "used_requests": len(rows.users)}
        document = {"told": told, "values": values, "support": supported}
        typer.echo(json.dumps(plain(document), indent=2, allow_nan=False))
        return
    _print_counts(console, told)
    console.print(policy_table(values))
    console.print(support_text(supported, len(rows.users)), highlight=False)


def _by_arm(
    console: Console,
    joined: Joined,
    champion: str,
    shares: Mapping[str, float] | None,
    as_json: bool,
) -> None:
    arms, mismatch = compare(joined.frame, champion), ratio_mismatch(joined.frame, shares)
    if as_json:
        document = {"told": joined.told, "arms": arms, "sample_ratio": mismatch}
        typer.echo(json.dumps(plain(document), indent=2))
    else:
        console.print(arms_table(arms))
        if len(arms) > 1:
            console.print(differences_table(arms))
        console.print(mismatch_text(mismatch), highlight=False)


def _tell(console: Console, told: Mapping[str, int]) -> None:
    """Print what was joined, and all other outcomes of events."""
    joined = ("joined_impressions", "joined_clicks", "conversions", "joined_conversions")
    console.print(
        f"{told['joined_impressions']} of {told['impressions']} impressions and {told['joined_clicks']} of"
        f" {told['clicks']} clicks joined to {told['requests']} logged requests",
        highlight=False,
    )
    if "conversions" in told:
        console.print(
            f"{told['joined_conversions']} of {told['conversions']} conversions joined to clicks", highlight=False
        )
    if 2 * (told[EARLY] + told[UNJOINED]) > told["clicks"]:
        console.print(f"most clicks are lost: {say_unjoined(told)}", style="bold", highlight=False)
    printed = (*joined, "events", "impressions", "clicks", "requests", "new_clicks", "new_unjoined_clicks")
    _print_counts(console, {name: count for name, count in told.items() if name not in printed})


def _print_counts(console: Console, counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        if count:
            console.print(f"  {count} {name.replace('_', ' ')}", highlight=False)


def _shares(given: str | None) -> dict[str, float] | None:
    if given is None:
        return None
    try:
        return {arm: float(share) for arm, share in (one.split("=", 1) for one in given.split(","))}
    except ValueError:
        raise FeedbackError(f"--shares {given}: give ARM=SHARE,ARM=SHARE, such as champion=0.9,new=0.1") from None
