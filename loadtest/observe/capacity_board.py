"""The dashboard of those who pay for it: what the services take, and how much more they could do."""

from loadtest.observe.board import Board, Row, lines, number
from loadtest.observe.promql import mean, quantile, rate, ratio, series, total

_BUSY = ratio(rate("msd_stage_seconds_sum", "instance", 'stage="run"'), total("msd_workers_ready", "instance"))

_ROOM = Row(
    "How much more",
    (
        lines(
            "Model busy",
            "Share of all workers' time that the model's runs take. Requests wait from about .6 on; scale on "
            "this, or on candidates a "
            "second.",
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
            "How long a worker alone would take for what is waiting.",
            "s",
            (series("msd_queued_seconds"), "{{instance}}"),
        ),
        lines(
            "Requests at work",
            "Being scored, or next to be.",
            "short",
            (series("msd_requests_at_work"), "{{instance}}"),
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
            "Processor time a second, of all processes of a service.",
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
            "Resident memory",
            "Of all processes; pages that they share count in each.",
            "bytes",
            (series("process_resident_memory_bytes"), "{{instance}}"),
        ),
        lines("Open files", "Of all processes.", "short", (series("process_open_fds"), "{{instance}}")),
        number("Workers ready", "By instance.", "short", (series("msd_workers_ready"), "{{instance}}")),
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
