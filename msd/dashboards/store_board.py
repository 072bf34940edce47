"""The dashboard of rows: where they were found, how old they are, how Redis fares."""

from msd.dashboards.board import Board, Row, lines, stack
from msd.dashboards.promql import quantile, rate, total

_FOUND = Row(
    "Where rows are found",
    (
        stack(
            "Rows by tier",
            "file: the bundle's; arena: the service's memory; redis: read for the request; stale: as last known; "
            "missing: nowhere.",
            "cps",
            (rate("msd_rows_total", "tier"), "{{tier}}"),
        ),
        lines(
            "Share by tier",
            "With Redis, the more are in the arena the faster a request is.",
            "percentunit",
            (
                f"{rate('msd_rows_total', 'tier')} / ignoring (tier) group_left {rate('msd_rows_total')}",
                "{{tier}}",
            ),
        ),
        lines(
            "Time for rows",
            "Of a request: reading and assembling them.",
            "s",
            *(
                (quantile(share, "msd_stage_seconds", where='stage="rows"'), f"p{100 * share:g}")
                for share in (0.5, 0.99)
            ),
        ),
        lines("Rows in memory", "Cached rows of each side.", "short", (total("msd_arena_rows", "side"), "{{side}}")),
    ),
)

_OLD = Row(
    "How old they are",
    (
        lines(
            "Age of rows, median",
            "Since they were written, of one row a read.",
            "s",
            (quantile(0.5, "msd_row_age_seconds", "side"), "{{side}}"),
            limit=172_800,
        ),
        lines(
            "Age of rows, oldest hundredth",
            "As above.",
            "s",
            (quantile(0.99, "msd_row_age_seconds", "side"), "{{side}}"),
        ),
        lines(
            "Stale rows",
            "For how long rows may have changed unheard, of reads of stale rows: there are some while Redis "
            "cannot be asked.",
            "s",
            (quantile(0.5, "msd_stale_seconds"), "p50"),
            (quantile(0.99, "msd_stale_seconds"), "p99"),
        ),
    ),
)

_REDIS = Row(
    "Redis",
    (
        stack(
            "Stores by state of Redis",
            "up; slow: not waited for; refusing: says no to reads; down: no connection.",
            "short",
            (total("msd_store_state", "state"), "{{state}}"),
        ),
        lines("Reads that failed", "Their requests are degraded.", "reqps", (rate("msd_store_errors_total"), "failed")),
        stack(
            "Stores by state of the cache fill",
            "waiting for Redis, filling, full (their memory is), done, off.",
            "short",
            (total("msd_fill_state", "state"), "{{state}}"),
        ),
        lines(
            "Damaged rows",
            "Short, changed, or of another bundle; never used.",
            "cps",
            (rate("msd_damaged_rows_total", "side"), "{{side}}"),
        ),
    ),
)

STORE = Board("msd-store", "msd-ctr: store", "Where rows are found and how old they are.", (_FOUND, _OLD, _REDIS))
