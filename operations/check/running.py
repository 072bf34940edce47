"""Checks of a running service over HTTP: readiness, access, runtime and alarms."""

from collections import defaultdict
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from operations.check.findings import Finding, Group
from operations.service_client import CannotAsk, HttpAnswer, ServiceClient
from service.settings import Settings

_SKEW_S = 2.0
_MUCH_SHED = 0.01


def read_totals(text: str) -> Mapping[str, float]:
    """Return the sum of each metric over its labels, from Prometheus's text format."""
    totals: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] += sample.value
    return totals


def look_at_running(client: ServiceClient, settings: Settings | None) -> list[Finding]:
    """Check a service."""
    group = Group("service")
    try:
        ready = client.ask("/health/ready")
    except CannotAsk as error:
        group.error(str(error), "no client gets scores", "start it, or fix the address, TLS or network")
        return group.findings
    if ready.status != 200:
        missing = ready.json().get("missing", {})
        reason = "; ".join(f"{part}: {why}" for part, why in missing.items()) or "it is draining"
        group.error(f"not ready: {reason}", "it answers 503", "fix what is missing; the log has details")
    else:
        group.ok("ready")
    _clock(group, ready)
    _guard(group, client)
    _model(group, client, settings)
    _alarms(group, client)
    return group.findings


def _clock(group: Group, answer: HttpAnswer) -> None:
    date = answer.headers.get("date")
    if date is None:
        return
    skew = parsedate_to_datetime(date).timestamp() - answer.at
    if abs(skew) > _SKEW_S:
        group.warning(
            f"its clock differs by {skew:+.0f} s",
            "hours of the day, ages and expiry of keys are wrong",
            "synchronise both machines with NTP",
        )


def _guard(group: Group, client: ServiceClient) -> None:
    """Check that admin routes are closed or absent without a key."""
    status = client.ask("/v1/admin/experiment", with_key=False).status
    if status not in (401, 403, 404):
        group.error(
            f"admin routes answer {status} without a key",
            "any client that reaches the port decides what is served",
            "set MSD_KEYS_FILE, and check that no proxy adds a key",
        )
    status = client.ask("/v1/score", b"{}", with_key=False).status
    if status not in (401, 403) and not client.is_local:
        group.warning(
            "scoring needs no key",
            "any client that reaches the port can request scores",
            "set MSD_KEYS_FILE, or restrict access to the port",
        )
    elif status in (401, 403):
        group.ok("requires keys")


def _model(group: Group, client: ServiceClient, settings: Settings | None) -> None:
    answer = client.ask("/v1/model")
    if answer.status in (401, 403):
        group.note(
            f"/v1/model answers {answer.status}", "the model runtime was not checked", "pass a key with --key-file"
        )
        return
    found = answer.json()
    engine: dict[str, Any] = found.get("runtime", {})
    told = f"{engine.get('name')} {engine.get('version')} on {engine.get('provider')} in {engine.get('precision')}"
    provider = settings.provider if settings else engine.get("provider")
    if engine.get("provider") != provider:
        group.error(
            f"{told}, but the settings say {provider}", "it may be slower than expected", "start it with these settings"
        )
    else:
        group.ok(told)
    group.ok(f"native core, with {found.get('native')}")


def _alarms(group: Group, client: ServiceClient) -> None:
    answer = client.ask("/metrics")
    if answer.status != 200:
        group.note(
            f"/metrics answers {answer.status}",
            "the metrics were not checked",
            "name MSD_ADMIN_PORT in --url" if answer.status == 404 else "pass a key of the scope metrics by --key-file",
        )
        return
    totals = read_totals(answer.body.decode())
    for name, what, mend in [
        ("msd_keys_stale", "the file of keys cannot be used", "fix it; the log has the reason (not_reloaded)"),
        ("msd_tls_stale", "certificate or key cannot be used", "fix them; the log has the reason (not_reloaded)"),
        ("msd_bundle_refused", "a bundle was refused", "the log says why (bundle_refused); put a good one there"),
    ]:
        if totals[name]:
            group.warning(what, "the service keeps using the previous one", mend)
    requests, sheds = totals["msd_requests_total"], totals["msd_shed_total"]
    if requests and sheds > _MUCH_SHED * requests:
        group.warning(
            f"{sheds / requests:.1%} of {requests:.0f} requests were not scored",
            "the load exceeds the capacity",
            "add cores or replicas, lower the candidates of a request, or use a leaner bundle",
        )
    if damaged := totals["msd_damaged_rows_total"]:
        group.warning(
            f"{damaged:.0f} damaged rows were read", "their IDs were scored as unknown", "publish the bundle again"
        )
