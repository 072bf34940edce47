"""What a running service tells of itself over HTTP: ready, guarded, with what runs it, and whether its memory grows."""

import time
from email.utils import parsedate_to_datetime
from typing import Any

from service.commands.check.finding import Finding, Group
from service.commands.check.http import Answer, CannotAsk, Client
from service.commands.check.samples import Samples, read_samples
from service.settings import Settings

_SKEW_S = 2.0
_GROWTH, _GROWTH_BYTES = 0.03, 32 * 2**20
_FEW_REQUESTS = 100
_MUCH_SHED = 0.01


def look_at_running(client: Client, settings: Settings | None, watch_s: float) -> list[Finding]:
    """Asks a service; for growth twice, `watch_s` apart, if that is more than 0."""
    group = Group("service")
    try:
        ready = client.get("/health/ready")
    except CannotAsk as error:
        group.error(str(error), "nobody gets scores", "start it, or mend the address, its TLS, or the way to it")
        return group.findings
    _ready(group, ready)
    _clock(group, ready)
    _guard(group, client)
    _model(group, client, settings)
    _metrics(group, client, watch_s)
    return group.findings


def _ready(group: Group, answer: Answer) -> None:
    if answer.status != 200:
        missing = answer.json().get("missing", {})
        reason = "; ".join(f"{part}: {why}" for part, why in missing.items()) or "it drains"
        group.error(f"not ready: {reason}", "it answers 503", "mend what is missing; the log has more")
    else:
        group.ok("ready")


def _clock(group: Group, answer: Answer) -> None:
    told = answer.headers.get("date")
    if told is None:
        return
    skew = parsedate_to_datetime(told).timestamp() - answer.at
    if abs(skew) > _SKEW_S:
        group.warning(
            f"its clock is {skew:+.0f} s from ours",
            "hours of the day, ages and ends of keys are told wrong where a clock is wrong",
            "have both machines keep time by NTP",
        )


def _guard(group: Group, client: Client) -> None:
    """Without a key, admin routes are to be closed or not there."""
    status = client.get("/v1/admin/experiment", with_key=False).status
    if status not in (401, 403, 404):
        group.error(
            f"admin routes answer {status} to one without a key",
            "whoever reaches the port decides what is served",
            "set MSD_KEYS_FILE, and let nothing before the service add a key of its own",
        )
    status = client.post("/v1/score", b"{}", with_key=False).status
    if status not in (401, 403) and not client.is_local:
        group.warning(
            "scores are given without a key",
            "whoever reaches the port may ask for them",
            "set MSD_KEYS_FILE, or let nobody else reach the port",
        )
    elif status in (401, 403):
        group.ok("asks for keys")


def _model(group: Group, client: Client, settings: Settings | None) -> None:
    answer = client.get("/v1/model")
    if answer.status in (401, 403):
        group.note(
            f"/v1/model answers {answer.status}",
            "what runs the model was not looked at",
            "give a key by --key-file",
        )
        return
    found = answer.json()
    engine: dict[str, Any] = found.get("runtime", {})
    told = f"{engine.get('name')} {engine.get('version')} on {engine.get('provider')} in {engine.get('precision')}"
    provider = settings.provider if settings else engine.get("provider")
    if engine.get("provider") != provider:
        group.error(
            f"{told}, the settings say {provider}", "it runs slower than is thought", "start it with these settings"
        )
    else:
        group.ok(told)
    core: dict[str, Any] = found.get("native", {})
    if core.get("served"):
        group.ok(f"plain requests are scored by the native core, with {core['instructions']}")
    elif core:
        group.note(
            f"the native core is not served: {core['reason']}",
            "Python scores all requests, which takes more of a core for each",
            "unless that is meant, change what the reason names, and start the service again",
        )


def _metrics(group: Group, client: Client, watch_s: float) -> None:
    answer = client.get("/metrics")
    if answer.status != 200:
        group.note(
            f"/metrics answers {answer.status}", "they were not looked at", "give a key of scope metrics by --key-file"
        )
        return
    samples = read_samples(answer.body.decode())
    _alarms(group, samples)
    if watch_s > 0:
        time.sleep(watch_s)
        _growth(group, samples, read_samples(client.get("/metrics").body.decode()), watch_s)


def _alarms(group: Group, samples: Samples) -> None:
    for name, what, mend in [
        ("msd_keys_stale", "the file of keys cannot be used", "mend it; the log says what is wrong (not_reloaded)"),
        ("msd_tls_stale", "certificate or key cannot be used", "mend them; the log says what is wrong (not_reloaded)"),
        ("msd_bundle_refused", "a bundle was refused", "the log says why (bundle_refused); put a good one there"),
    ]:
        if samples.total(name):
            group.warning(what, "the service goes on with what it had before", mend)
    requests, sheds = samples.total("msd_requests_total"), samples.total("msd_shed_total")
    if requests and sheds > _MUCH_SHED * requests:
        group.warning(
            f"{sheds / requests:.1%} of {requests:.0f} requests were not scored",
            "there is more asked than can be answered in time",
            "add cores or replicas, lower the candidates of a request, or use a leaner bundle",
        )
    if damaged := samples.total("msd_damaged_rows_total"):
        group.warning(
            f"{damaged:.0f} damaged rows were read", "their ids counted as unknown", "publish the bundle again"
        )


def _growth(group: Group, before: Samples, after: Samples, seconds: float) -> None:
    name = "process_resident_memory_bytes"
    first, last = before.total(name), after.total(name)
    asked = after.total("msd_requests_total") - before.total("msd_requests_total")
    told = f"memory went from {first / 2**20:.0f} to {last / 2**20:.0f} MB in {seconds:g} s and {asked:.0f} requests"
    if asked < _FEW_REQUESTS:
        group.note(told, "so few requests tell nothing of growth", "look again under load")
    elif last - first > max(_GROWTH * first, _GROWTH_BYTES):
        sizes = before.buckets("msd_request_candidates", after)
        group.warning(
            f"{told}; requests had {', '.join(sizes)} candidates",
            "a runtime keeps memory for each size of request that it has not seen before; a service that goes on"
            " growing is killed in the end",
            "look again after some minutes; if it still grows, have requests of fewer sizes, and lower"
            " MSD_MAX_CANDIDATES and MSD_CACHE_MB",
        )
    else:
        group.ok(told)
