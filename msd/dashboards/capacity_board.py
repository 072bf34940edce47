"""Capacity dashboard: load, model run times and resource use."""

from msd.dashboards.board import Board, Row, lines, number
from msd.dashboards.promql import mean, quantile, rate, ratio, series, total

_BUSY = ratio(rate("msd_stage_seconds_sum", "instance", 'stage="run"'), total("msd_scoring_threads", "instance"))

_ROOM = Row(
    "Load",
    (
        lines(
            "Model busy",
            "Share of the scoring threads' time spent in model runs. Requests wait from about .6 on; scale on this, "
            "or on candidates per second.",
            "percentunit",
            (_BUSY, "{{instance}}"),
            limit=0.6,
        ),
        lines(
            "Candidates per second",
            "By instance.",
            "cps",
            (rate("msd_request_candidates_sum", "instance"), "{{instance}}"),
        ),
        lines(
            "Candidates per second at full load",
            "Extrapolated: candidates per second divided by the model's busy share.",
            "cps",
            (f"{rate('msd_run_rows_sum', 'instance')} / ({_BUSY})", "{{instance}}"),
        ),
        lines(
            "Expected wait",
            "Estimated time until one scoring thread alone has scored what is queued.",
            "s",
            (series("msd_queued_seconds"), "{{instance}}"),
        ),
        lines(
            "Requests per second",
            "By instance: they should be similar.",
            "reqps",
            (rate("msd_requests_total", "instance"), "{{instance}}"),
        ),
    ),
)

_MODEL = Row(
    "Model",
    (
        lines(
            "Run time",
            "Median and p99.",
            "s",
            *(
                (quantile(share, "msd_stage_seconds", where='stage="run"'), f"p{100 * share:g}")
                for share in (0.5, 0.99)
            ),
        ),
        lines(
            "Candidates per run",
            "On a GPU, several requests share a run.",
            "short",
            (mean("msd_run_rows"), "mean"),
            (quantile(0.99, "msd_run_rows"), "p99"),
        ),
        lines(
            "Run time per candidate",
            "It rises with fewer cores or another model.",
            "s",
            (
                ratio(rate("msd_stage_seconds_sum", "instance", 'stage="run"'), rate("msd_run_rows_sum", "instance")),
                "{{instance}}",
            ),
        ),
    ),
)

_TAKEN = Row(
    "Resources",
    (
        lines(
            "Cores",
            "CPU seconds per second, by instance.",
            "cores",
            (rate("process_cpu_seconds_total", "instance"), "{{instance}}"),
        ),
        lines(
            "Core seconds per million candidates",
            "Cost per unit of work, including everything around the model.",
            "s",
            (
                "1e6 * "
                + ratio(rate("process_cpu_seconds_total", "instance"), rate("msd_request_candidates_sum", "instance")),
                "{{instance}}",
            ),
        ),
        lines(
            "Memory",
            "Memory with mapped files (resident), and the part that counts towards the container's limit (own).",
            "bytes",
            (series("process_resident_memory_bytes"), "{{instance}} resident"),
            (series("msd_memory_own_bytes"), "{{instance}} own"),
            (series("msd_memory_limit_bytes"), "{{instance}} limit"),
        ),
        lines(
            "Open files",
            "Open file descriptors and their limit.",
            "short",
            (series("process_open_fds"), "{{instance}}"),
            (series("process_max_fds"), "{{instance}} limit"),
        ),
        number("Scoring threads", "By instance.", "short", (series("msd_scoring_threads"), "{{instance}}")),
        number(
            "Uptime",
            "Since the process started.",
            "s",
            (f"time() - {series('process_start_time_seconds')}", "{{instance}}"),
        ),
    ),
)

CAPACITY = Board(
    "msd-capacity",
    "msd-ctr: capacity",
    "Load, model run times and resource use.",
    (_ROOM, _MODEL, _TAKEN),
)
