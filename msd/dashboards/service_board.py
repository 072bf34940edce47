"""Overview dashboard: availability, latency, overload and deployment."""

from dataclasses import replace

from msd.dashboards.board import Board, Row, lines, number, stack
from msd.dashboards.promql import mean, most, quantile, rate, series, total

_AVAILABILITY_BUDGET, _LATENCY_BUDGET = 0.001, 0.01
_PAGED = 14.4


def _burnt(record: str, budget: float) -> tuple[tuple[str, str], ...]:
    return tuple((f"{series(f'job:msd_{record}:ratio_rate{one}')} / {budget}", one) for one in ("5m", "1h", "6h", "3d"))


_OBJECTIVES = Row(
    "Objectives",
    (
        number(
            "Instances",
            "Instances that accept requests, of those that are scraped.",
            "short",
            (total("msd_ready"), "ready"),
            (f"count ({series('msd_ready')})", "scraped"),
        ),
        lines(
            "Availability: budget burnt",
            "Burn rate of the month's budget of unscored requests (.1 %): 1 uses it up exactly by the end of "
            "the month; 14.4 over an hour "
            "pages someone.",
            "short",
            *_burnt("unavailable", _AVAILABILITY_BUDGET),
            limit=_PAGED,
        ),
        lines(
            "Latency: budget burnt",
            "Burn rate of the budget of scored requests over 50 ms (1 %).",
            "short",
            *_burnt("slow", _LATENCY_BUDGET),
            limit=_PAGED,
        ),
        replace(
            stack(
                "Alerts",
                "Alerts that are pending or firing; the runbook has a section for each.",
                "short",
                ('sum by (alertname, alertstate) (ALERTS{alertname=~"Msd.*"})', "{{alertname}} {{alertstate}}"),
            ),
            may_be_empty="a healthy service has no pending or firing alerts",
        ),
    ),
)

_REQUESTS = Row(
    "Requests",
    (
        stack(
            "Requests by status",
            "429 and 504: overload; 503: not ready; 500: a fault; 499: the client disconnected.",
            "reqps",
            (rate("msd_requests_total", "code"), "{{code}}"),
        ),
        lines(
            "Latency",
            "Scored requests, from the first byte read to the reply.",
            "s",
            *((quantile(share, "msd_request_seconds"), f"p{100 * share:g}") for share in (0.5, 0.9, 0.99)),
            limit=0.05,
        ),
        stack(
            "Where the time goes",
            "Mean time by stage. A rising queue means load; rising rows, Redis; a rising run, the model.",
            "s",
            (mean("msd_stage_seconds", "stage"), "{{stage}}"),
        ),
        lines(
            "Stages, p99",
            "99th percentile by stage.",
            "s",
            (quantile(0.99, "msd_stage_seconds", "stage"), "{{stage}}"),
        ),
        lines(
            "Candidates per request",
            "Median and p99. The cost of a request is proportional to them.",
            "short",
            (quantile(0.5, "msd_request_candidates"), "p50"),
            (quantile(0.99, "msd_request_candidates"), "p99"),
        ),
        lines(
            "Traces",
            "Traced requests by result: sent, dropped because the queue was full, rejected by the collector.",
            "reqps",
            (rate("msd_traces_total", "result"), "{{result}}"),
        ),
        replace(
            stack(
                "Requests that explore",
                "explored: the policy chose the first candidate; exploited: its score; unavailable: no uncertainty.",
                "reqps",
                (rate("msd_explorations_total", "result"), "{{result}}"),
            ),
            may_be_empty="exploration is off by default",
        ),
    ),
)

_OVERLOAD = Row(
    "Overload",
    (
        stack(
            "Requests not scored, by reason",
            "rows, wait: rejected on arrival; deadline: too late; client_gone: the client disconnected.",
            "reqps",
            (rate("msd_shed_total", "reason"), "{{reason}}"),
        ),
        lines(
            "Scored in part",
            "Runs with only the first candidates, for lack of time.",
            "reqps",
            (rate("msd_partial_total"), "runs"),
        ),
        replace(
            lines(
                "Brownout",
                "Requests scored by the lean graph, and instances that do so now.",
                "short",
                (rate("msd_degraded_total", where='side="model"'), "requests/s"),
                (total("msd_brownout"), "instances"),
            ),
            may_be_empty="brownout is off by default",
        ),
        lines(
            "Queued candidates",
            "Accepted and not yet scored.",
            "short",
            (total("msd_queued_rows", "instance"), "{{instance}}"),
        ),
    ),
)

_CONNECTIONS = Row(
    "Connections and restarts",
    (
        lines(
            "Connections",
            "Client connections and their limit.",
            "short",
            (total("msd_connections", "instance"), "{{instance}}"),
            (total("msd_connections_limit", "instance"), "{{instance}} limit"),
        ),
        stack(
            "Connections ended by the service",
            "By reason.",
            "reqps",
            (rate("msd_connections_closed_total", "reason"), "{{reason}}"),
        ),
        lines(
            "Bytes in flight",
            "Bytes of unfinished or unanswered requests; beyond MSD_INFLIGHT_MB, requests are rejected.",
            "bytes",
            (total("msd_inflight_bytes", "instance"), "{{instance}}"),
        ),
        stack(
            "Keys refused",
            "Requests rejected for their API key, by reason.",
            "reqps",
            (rate("msd_keys_refused_total", "reason"), "{{reason}}"),
        ),
        lines(
            "Restarts",
            "Restarts of the process within the last hour, by instance.",
            "short",
            (f"changes({series('process_start_time_seconds')}[1h])", "{{instance}}"),
        ),
        lines(
            "Silence",
            "Seconds without progress of the event loop or of all scoring threads. Without an admin port a "
            "hanging process cannot be scraped.",
            "s",
            (series("msd_loop_silent_seconds"), "{{instance}} loop"),
            (series("msd_scoring_silent_seconds"), "{{instance}} scoring"),
            (series("msd_longest_run_seconds"), "{{instance}} longest run"),
            limit=15,
        ),
        stack(
            "Log lines",
            "limited: too many lines of one kind; dropped: the reader is slow; lost: the reader is gone or "
            "the disk is full.",
            "cps",
            (rate("msd_log_lines_total", "result"), "{{result}}"),
        ),
    ),
)

_SERVED = Row(
    "Deployment",
    (
        lines(
            "Releases",
            "Instances by release.",
            "short",
            ("count by (version, commit) (" + series("msd_build_info") + ")", "{{version}} {{commit}}"),
        ),
        lines(
            "Models",
            "Instances by model version; several during a swap or an experiment.",
            "short",
            ("count by (model_version, store) (" + series("msd_bundle_info") + ")", "{{model_version}} {{store}}"),
        ),
        lines(
            "Runtimes",
            "Instances by model runtime, as read back after loading, and by what scores plain requests.",
            "short",
            (
                "count by (runtime, version, provider, precision) (" + series("msd_runtime_info") + ")",
                "{{runtime}} {{version}} {{provider}} {{precision}}",
            ),
            (
                "count by (path, instructions) (" + series("msd_native_info") + ")",
                "plain requests: {{path}} {{instructions}}",
            ),
        ),
        lines(
            "Swaps",
            "Wanted bundles and weights by result, since the service's start.",
            "short",
            (total("msd_swaps_total", "result"), "{{result}}"),
        ),
        lines(
            "Refused",
            "1 while the wanted bundle is not served, or keys or certificates cannot be reloaded.",
            "short",
            (most("msd_bundle_refused"), "bundle"),
            (most("msd_keys_stale"), "keys"),
            (most("msd_tls_stale"), "certificate"),
        ),
    ),
)

SERVICE = Board(
    "msd-service",
    "msd-ctr: service",
    "Availability, latency, overload and deployment.",
    (_OBJECTIVES, _REQUESTS, _OVERLOAD, _CONNECTIONS, _SERVED),
)
