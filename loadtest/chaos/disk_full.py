"""The disk under the request log is full for a while: records are lost and counted, requests are not."""

import resource
import time
from pathlib import Path

from loadtest.chaos.environment import Environment, metric, wait_for
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.scenario import Check, Found, Scenario, usual_checks
from loadtest.chaos.timeline import FIVES, count, percentile_ms
from loadtest.generator import Target, closed_loop
from loadtest.http_client import Client, ClientError

_NAME = "disk-full"
_LOST = 'msd_log_records_total{result="lost"}'
_WRITTEN = 'msd_log_records_total{result="written"}'
_ROOM = 1_024
_SHARE = 0.2
_FLUSH_S = 0.25
_PATIENCE_S = 60.0


def _run(environment: Environment) -> Found:
    plan = environment.plan
    folder = environment.work / _NAME / "log"
    with environment.service(_NAME, log_dir=folder, log_sample=_SHARE, log_flush_seconds=_FLUSH_S) as service:
        target = environment.target(service.url)
        rate = plan.share * capacity(target, plan.capacity_s)
        usual = resource.prlimit(service.pid, resource.RLIMIT_FSIZE)
        with Load(target, rate, plan.seconds) as load:
            load.until(plan.steady_s)
            # No file of the service may grow beyond this: as on a full disk, its writes end half way.
            resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (_ROOM, usual[1]))
            full = load.mark("no room for the log")
            wait_for(service.url, _LOST, 1)
            load.until(full + plan.broken_s)
            resource.prlimit(service.pid, resource.RLIMIT_FSIZE, usual)
            roomy = load.mark("room again")
            with Client(service.url) as client:
                written = metric(client, _WRITTEN)
        _ask_until_written(target, written + 1)
        with Client(service.url) as client:
            lost, again = metric(client, _LOST), metric(client, _WRITTEN) - written
    timeline = load.timeline
    fives = count(timeline.samples, *FIVES)
    return Found(
        {
            "disk_full_5xx": fives,
            "disk_full_p99_ms": percentile_ms(timeline.between(full, roomy), 99),
            "disk_full_steady_p99_ms": percentile_ms(timeline.between(0.0, full), 99),
            "disk_full_records_lost": lost,
            "disk_full_records_written_after": again,
        },
        (
            *usual_checks(timeline.samples),
            Check("records that were lost are counted", lost > 0),
            Check("with room again, records are written again", again > 0),
            Check("no file is left half written", not _halves(folder)),
        ),
        timeline,
    )


def _ask_until_written(target: Target, least: float) -> None:
    """On a busy machine the load may be over before there is room again. Raises ClientError."""
    until = time.monotonic() + _PATIENCE_S
    with Client(target.url) as client:
        while metric(client, _WRITTEN) < least:
            if time.monotonic() > until:
                raise ClientError(f"{target.url}: no record was written within {_PATIENCE_S:g} s of room for it")
            closed_loop(target, 1, _FLUSH_S)


def _halves(folder: Path) -> list[Path]:
    """Files that a reader of the log would stumble over."""
    magic = b"PAR1"
    return [one for one in folder.glob("*.parquet") if not one.name.startswith(".") and not _ends(one, magic)]


def _ends(path: Path, magic: bytes) -> bool:
    return path.read_bytes()[-len(magic) :] == magic


DISK_FULL = Scenario(_NAME, "The disk under the request log is full", (), _run)
