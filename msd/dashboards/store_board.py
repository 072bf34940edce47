"""Row store dashboard: tiers, age of rows and the state of Redis."""

from msd.dashboards.board import Board, Row, lines, stack
from msd.dashboards.promql import quantile, rate, total

_FOUND = Row(
    "Tiers",
    (
        stack(
            "Rows by tier",
            "file: the bundle's; arena: the service's memory; redis: read for the request; stale: last known; "
            "missing: not found.",
            "cps",
            (rate("msd_rows_total", "tier"), "{{tier}}"),
        ),
        lines(
            "Share by tier",
            "With Redis, a larger arena share means faster requests.",
            "percentunit",
            (
                f"{rate('msd_rows_total', 'tier')} / ignoring (tier) group_left {rate('msd_rows_total')}",
                "{{tier}}",
            ),
        ),
        lines(
            "Time for rows",
            "Reading and assembling rows, per request.",
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
    "Age",
    (
        lines(
            "Age of rows, median",
            "Time since the row was written; one row per read.",
            "s",
            (quantile(0.5, "msd_row_age_seconds", "side"), "{{side}}"),
            limit=172_800,
        ),
        lines(
            "Age of rows, p99",
            "The same, 99th percentile.",
            "s",
            (quantile(0.99, "msd_row_age_seconds", "side"), "{{side}}"),
        ),
        lines(
            "Stale rows",
            "Time in which changes may have been missed, per read of stale rows. Stale rows are read while Redis "
            "is unreachable.",
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
            "up; slow: not waited for; refusing: rejects reads; down: no connection.",
            "short",
            (total("msd_store_state", "state"), "{{state}}"),
        ),
        lines("Failed reads", "Their requests are degraded.", "reqps", (rate("msd_store_errors_total"), "failed")),
        stack(
            "Stores by state of the cache fill",
            "waiting for Redis, filling, full, done, off.",
            "short",
            (total("msd_fill_state", "state"), "{{state}}"),
        ),
        lines(
            "Damaged rows",
            "Truncated, changed, or of another bundle; never used.",
            "cps",
            (rate("msd_damaged_rows_total", "side"), "{{side}}"),
        ),
    ),
)

STORE = Board("msd-store", "msd-ctr: store", "Tiers and age of rows, state of Redis.", (_FOUND, _OLD, _REDIS))
