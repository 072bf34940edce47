"""Runs scenarios one after another and stores each result in its folder, so that single scenarios can be repeated."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.benchmark.machine import machine_now
from lab.chaos.environment import Environment
from lab.chaos.scenario import Scenario, ScenarioResult
from lab.chaos.scenarios import SCENARIOS
from msd.contract.errors import MsdError
from msd.contract.files import write_text_atomic

_FOUND = "found.json"


def run_chaos(environment: Environment, chosen: Sequence[type[Scenario]]) -> dict[str, Any]:
    """Run the chosen scenarios; return the summary of these and of stored results."""
    start = time.perf_counter()
    for place, scenario in enumerate(chosen):
        environment.heard(scenario.title, place, len(chosen))
        folder = environment.work / scenario.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_text_atomic(folder / _FOUND, json.dumps(_run(environment, scenario)) + "\n")
    environment.heard("Done", len(chosen), len(chosen))
    return summarised(environment, round(time.perf_counter() - start, 1))


def summarised(environment: Environment, seconds: float) -> dict[str, Any]:
    """Return the reported figures, null with a reason if unavailable; then all scenarios."""
    scenarios = {scenario.name: _kept(environment, scenario) for scenario in SCENARIOS}
    figures, reasons = {}, {}
    for scenario in SCENARIOS:
        one = scenarios[scenario.name]
        for key in scenario.told:
            figures[key] = one["figures"].get(key)
            if figures[key] is None:
                reasons[key] = one["reason"] or "the scenario came to no figure"
    return {
        **figures,
        "reasons": reasons,
        "broken": [
            f"{name}: {check['what']}"
            for name, one in scenarios.items()
            for check in one["checks"]
            if _is_broken(check)
        ],
        "scenarios": scenarios,
        "plan": vars(environment.plan),
        "bundle": str(environment.bundle),
        "machine": machine_now(),
        "seconds": seconds,
    }


def told_keys() -> list[str]:
    """Return the names of the reported figures, in order."""
    return [key for scenario in SCENARIOS for key in scenario.told]


def timeline_of(environment: Environment, name: str) -> Mapping[str, Any] | None:
    """Return a scenario's timeline, if it has been run."""
    path = environment.work / name / _FOUND
    if not path.exists():
        return None
    timeline: Mapping[str, Any] | None = json.loads(path.read_text())["timeline"]
    return timeline


def _run(environment: Environment, scenario: type[Scenario]) -> dict[str, Any]:
    start, before = time.perf_counter(), _ticks()
    found, reason = ScenarioResult({}, (), None), ""
    try:
        found = scenario(environment).run()
    except MsdError as error:
        reason = str(error)
    except Exception as error:  # a failing scenario, whatever the error, must not stop the others
        reason = f"{type(error).__name__}: {error}"
    return {
        "title": scenario.title,
        "figures": dict(found.figures),
        "reason": reason,
        "checks": [check._asdict() for check in found.checks],
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - start, 1),
        "stolen_share": _stolen_share(before, _ticks()),
        "timeline": found.timeline.as_json() if found.timeline else None,
    }


def _kept(environment: Environment, scenario: type[Scenario]) -> dict[str, Any]:
    path = environment.work / scenario.name / _FOUND
    if not path.exists():
        nothing: dict[str, Any] = {"figures": {}, "checks": [], "at": None, "seconds": None, "stolen_share": None}
        return {"title": scenario.title, "reason": "it was not run", **nothing}
    kept: dict[str, Any] = {"stolen_share": None} | json.loads(path.read_text())
    del kept["timeline"]
    return kept


def _is_broken(check: Mapping[str, Any]) -> bool:
    return not check["holds"] and not check["is_timed"]


def _stolen_share(before: tuple[int, int], now: tuple[int, int]) -> float | None:
    """Return the share of CPU time, from 0 to 1, stolen by other virtual machines; None if unknown. If it is large, no
    time figure is reliable."""
    (stolen, total), (stolen_now, total_now) = before, now
    return round((stolen_now - stolen) / (total_now - total), 4) if total_now > total else None


def _ticks() -> tuple[int, int]:
    """Return stolen and total ticks."""
    try:
        ticks = [int(one) for one in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return ticks[7], sum(ticks)
