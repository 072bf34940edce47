"""The dashboard to begin with: are requests answered, in time, and by what."""

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
            "How fast a month's budget of unscored requests (.1 %) goes: 1 is just used up at its end; at "
            "14.4 over an hour somebody "
            "is paged.",
            "short",
            *_burnt("unavailable", _AVAILABILITY_BUDGET),
            limit=_PAGED,
        ),
        lines(
            "Latency: budget burnt",
            "The same of scored requests that take more than 50 ms (1 %).",
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
            may_be_empty="no alert is pending or firing of a service that is well",
        ),
    ),
)

_REQUESTS = Row(
    "Requests",
    (
        stack(
            "Requests by status",
            "429 and 504: too much to do; 503: not ready; 500: a fault; 499: the client left.",
            "reqps",
            (rate("msd_requests_total", "code"), "{{code}}"),
        ),
        lines(
            "Latency",
            "From the first byte read to the reply, of scored requests.",
            "s",
            *((quantile(share, "msd_request_seconds"), f"p{100 * share:g}") for share in (0.5, 0.9, 0.99)),
            limit=0.05,
        ),
        stack(
            "Where the time goes",
            "Mean time of each stage of a request. A rising queue is load; rising rows are Redis; a rising "
            "run is the model.",
            "s",
            (mean("msd_stage_seconds", "stage"), "{{stage}}"),
        ),
        lines(
            "Stages, p99",
            "The slowest hundredth of each stage.",
            "s",
            (quantile(0.99, "msd_stage_seconds", "stage"), "{{stage}}"),
        ),
        lines(
            "Candidates a request",
            "Median and largest hundredth. A request costs in proportion to them.",
            "short",
            (quantile(0.5, "msd_request_candidates"), "p50"),
            (quantile(0.99, "msd_request_candidates"), "p99"),
        ),
        lines(
            "Traces",
            "Of traced requests: taken by the collector, dropped because too many waited, not taken.",
            "reqps",
            (rate("msd_traces_total", "result"), "{{result}}"),
        ),
    ),
)

_OVERLOAD = Row(
    "Too much to do",
    (
        stack(
            "Requests not scored, by reason",
            "rows, wait: refused when they came; deadline: their time was over; client_gone: their client left.",
            "reqps",
            (rate("msd_shed_total", "reason"), "{{reason}}"),
        ),
        lines(
            "Scored in part",
            "Runs of the first candidates alone, because there was not the time for all.",
            "reqps",
            (rate("msd_partial_total"), "runs"),
        ),
        lines(
            "Candidates that wait",
            "Taken on and not yet scored.",
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
            "Of clients, and how many there may be.",
            "short",
            (total("msd_connections", "instance"), "{{instance}}"),
            (total("msd_connections_limit", "instance"), "{{instance}} limit"),
        ),
        stack(
            "Connections ended by the service",
            "For what clients did, or did not.",
            "reqps",
            (rate("msd_connections_closed_total", "reason"), "{{reason}}"),
        ),
        lines(
            "Bytes in flight",
            "Of requests that are unfinished or not yet answered; beyond MSD_INFLIGHT_MB further ones are refused.",
            "bytes",
            (total("msd_inflight_bytes", "instance"), "{{instance}}"),
        ),
        stack(
            "Keys refused",
            "Requests without a key that lets them in.",
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
            "How long the event loop, or all scoring threads, have not moved; a process that hangs cannot even be "
            "scraped without an admin port.",
            "s",
            (series("msd_loop_silent_seconds"), "{{instance}} loop"),
            (series("msd_scoring_silent_seconds"), "{{instance}} scoring"),
            (series("msd_longest_run_seconds"), "{{instance}} longest run"),
            limit=15,
        ),
        stack(
            "Lines of the log",
            "limited: one kind of line came too often; dropped: its reader is slow; lost: its reader is gone or "
            "the disk is full.",
            "cps",
            (rate("msd_log_lines_total", "result"), "{{result}}"),
        ),
    ),
)

_SERVED = Row(
    "What is served",
    (
        lines(
            "Releases",
            "Instances by the release that they run.",
            "short",
            ("count by (version, commit) (" + series("msd_build_info") + ")", "{{version}} {{commit}}"),
        ),
        lines(
            "Models",
            "Instances by model version; several at a time during a swap or an experiment.",
            "short",
            ("count by (model_version, store) (" + series("msd_bundle_info") + ")", "{{model_version}} {{store}}"),
        ),
        lines(
            "Runtimes",
            "Instances by what runs the model, as it was read back after loading, and by what scores plain requests.",
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
            "Bundles and weights that were to be served, by what became of that, since the service's start.",
            "short",
            (total("msd_swaps_total", "result"), "{{result}}"),
        ),
        lines(
            "Refused",
            "1 while what is wanted is not what is served; also of keys and certificates that cannot be read anew.",
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
    "Whether requests are answered and in time, and by what.",
    (_OBJECTIVES, _REQUESTS, _OVERLOAD, _CONNECTIONS, _SERVED),
)
