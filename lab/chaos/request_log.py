"""The request log under load: its disk is full for a while; what it holds is scored again, to the bit."""

import json
import resource

from lab.chaos.load import capacity
from lab.chaos.run import Run
from lab.chaos.timeline import SCORED, count
from loadtest.generator import closed_loop
from loadtest.http_client import ServiceConnection, wait_until
from loadtest.processes import msd_output

_LOST, _WRITTEN = (f'msd_log_records_total{{result="{result}"}}' for result in ("lost", "written"))
_FILE_BYTES = 1_024
_FLUSH_S = 0.25
_MAGIC = b"PAR1"
# Logging all rows of all requests costs more than scoring; the rest is for the log's writer.
_SHARE_OF_LOAD = 0.4
_REPLAYED = 4_000


def disk_full(run: Run) -> None:
    """Records are lost and counted, requests are unaffected; once there is room again, records are written."""
    log = run.folder / "log"
    with (
        run.service(log_dir=log, log_sample=0.2, limits={"LOG_FLUSH_S": _FLUSH_S}) as service,
        ServiceConnection(service.url) as client,
    ):
        target = run.target(service)
        with run.load(target) as load:
            usual = resource.prlimit(service.pid, resource.RLIMIT_FSIZE)
            # The service's files may not grow beyond this: as on a full disk, its writes stop halfway.
            resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (_FILE_BYTES, usual[1]))
            full = load.mark("no room for the log")
            wait_until("a record is lost", lambda: client.metric(_LOST) >= 1)
            load.until(full + run.plan.broken_s)
            resource.prlimit(service.pid, resource.RLIMIT_FSIZE, usual)
            load.mark("room again")
            written = client.metric(_WRITTEN)

        def is_written() -> bool:
            # On a busy machine the load may end before there is room again.
            closed_loop(target, 1, _FLUSH_S)
            return client.metric(_WRITTEN) > written

        wait_until("with room again, a record is written", is_written)
        run.figures |= {"records_lost": client.metric(_LOST), "written_after": client.metric(_WRITTEN) - written}
    # Files that would break a reader of the log.
    halves = [path for path in log.glob("[!.]*.parquet") if not path.read_bytes().endswith(_MAGIC)]
    run.check("no file is half-written", not halves)


def log_replay(run: Run) -> None:
    """Log every request before, while and after Redis is empty: rows are fresh, stale and missing."""
    log, plan = run.folder / "log", run.plan
    with run.redis() as redis, run.service(redis.url, log_dir=log, log_sample=1.0) as service:
        target = run.target(service, {max(1, plan.candidates // 10): 1.0, plan.candidates: 1.0})
        rate = _SHARE_OF_LOAD * plan.share * capacity(target, plan.capacity_s)
        with run.load(target, rate) as load:
            redis.flush()
            load.mark("FLUSHALL")
            load.until(plan.steady_s + plan.broken_s / 2)
            redis.publish(run.bundle)
            load.mark("rows published again")
        service.terminate()
        service.wait_for_end()
    run.hear("scoring the log again")
    replayed = json.loads(
        msd_output("replay", str(log), "--bundle", str(run.bundle), "--limit", str(_REPLAYED), "--json")
    )
    run.figures |= {name: replayed[name] for name in ("mismatches", "requests", "candidates", "exact", "max_abs_diff")}
    run.figures["scored"] = count(run.timeline.samples, *SCORED)
    run.check("every logged score is reproduced to the bit", replayed["mismatches"] == 0)
    run.check("all were compared to the bit", replayed["exact"] == replayed["requests"] > 0)
