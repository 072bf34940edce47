"""The dashboard of those who pay for it: what the services take, and how much more they could do."""

from msd.dashboards.board import Board, Row, lines, number
from msd.dashboards.promql import mean, quantile, rate, ratio, series, total

_BUSY = ratio(rate("msd_stage_seconds_sum", "instance", 'stage="run"'), total("msd_scoring_threads", "instance"))

_ROOM = Row(
    "How much more",
    (
        lines(
            "Model busy",
            "Share of the scoring threads' time spent in model runs. Requests wait from about .6 on; scale on this, "
            "or on candidates a second.",
            "percentunit",
            (_BUSY, "{{instance}}"),
            limit=0.6,
        ),
        lines(
            "Candidates a second",
            "By instance.",
            "cps",
            (rate("msd_request_candidates_sum", "instance"), "{{instance}}"),
        ),
        lines(
            "Candidates a second at full load",
            "What there would be if the model ran all the time: candidates by the share that it is busy.",
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
            "Requests a second",
            "By instance: shares of the load should be alike.",
            "reqps",
            (rate("msd_requests_total", "instance"), "{{instance}}"),
        ),
    ),
)

_MODEL = Row(
    "The model",
    (
        lines(
            "A run",
            "Median and slowest hundredth.",
            "s",
            *(
                (quantile(share, "msd_stage_seconds", where='stage="run"'), f"p{100 * share:g}")
                for share in (0.5, 0.99)
            ),
        ),
        lines(
            "Candidates a run",
            "On a GPU, of several requests together.",
            "short",
            (mean("msd_run_rows"), "mean"),
            (quantile(0.99, "msd_run_rows"), "p99"),
        ),
        lines(
            "Time a candidate",
            "Of the model's runs. It rises when cores are taken away or another model is served.",
            "s",
            (
                ratio(rate("msd_stage_seconds_sum", "instance", 'stage="run"'), rate("msd_run_rows_sum", "instance")),
                "{{instance}}",
            ),
        ),
    ),
)

_TAKEN = Row(
    "What is taken",
    (
        lines(
            "Cores",
            "Processor seconds a second, by instance.",
            "cores",
            (rate("process_cpu_seconds_total", "instance"), "{{instance}}"),
        ),
        lines(
            "Core seconds for a million candidates",
            "What a unit of work costs, all that is around the model included.",
            "s",
            (
                "1e6 * "
                + ratio(rate("process_cpu_seconds_total", "instance"), rate("msd_request_candidates_sum", "instance")),
                "{{instance}}",
            ),
        ),
        lines(
            "Memory",
            "Of the process: with mapped files (resident), and what counts against the limit of its container.",
            "bytes",
            (series("process_resident_memory_bytes"), "{{instance}} resident"),
            (series("msd_memory_own_bytes"), "{{instance}} own"),
            (series("msd_memory_limit_bytes"), "{{instance}} limit"),
        ),
        lines(
            "Open files",
            "Open file descriptors, and how many there may be.",
            "short",
            (series("process_open_fds"), "{{instance}}"),
            (series("process_max_fds"), "{{instance}} limit"),
        ),
        number("Scoring threads", "By instance.", "short", (series("msd_scoring_threads"), "{{instance}}")),
        number(
            "Up for",
            "Since the service's start.",
            "s",
            (f"time() - {series('process_start_time_seconds')}", "{{instance}}"),
        ),
    ),
)

CAPACITY = Board(
    "msd-capacity",
    "msd-ctr: capacity",
    "What the services take, and how much more they could do.",
    (_ROOM, _MODEL, _TAKEN),
)
