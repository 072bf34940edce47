"""Model quality dashboard: sources of scores, calibration, drift, experiments, live state, request log."""

from dataclasses import replace

from msd.dashboards.board import Board, Row, lines, stack
from msd.dashboards.promql import quantile, rate, ratio, series, total

_CANDIDATES, _USERS = 'side="item"', 'side="user"'


def _winners(by: str) -> str:
    expected, clicks = (total(f"msd_shown_{what}", by) for what in ("expected_clicks", "clicks"))
    return f"{expected} / ({clicks} > 0)"


def _of_all(where: str, whole: str) -> str:
    return f"{rate('msd_degraded_total', 'rung', where)} / ignoring (rung) group_left {rate(whole)}"


_FROM = Row(
    "Sources of scores",
    (
        lines(
            "Candidates not scored from their own row",
            "Share by rung: cached (last known row), encoded (from the text), category_prior (from given "
            "features), prior (unknown, "
            "or no time).",
            "percentunit",
            (_of_all(_CANDIDATES, "msd_request_candidates_sum"), "{{rung}}"),
        ),
        lines(
            "Users without a fresh row",
            "Share of the scored requests.",
            "percentunit",
            (_of_all(_USERS, "msd_request_candidates_count"), "{{rung}}"),
        ),
        replace(
            stack(
                "BidRequests by user",
                "given, missing, or no_consent: privacy signals forbid the use of who the user is.",
                "reqps",
                (rate("msd_openrtb_requests_total", "user"), "{{user}}"),
            ),
            may_be_empty="requests may come to /v1/score alone",
        ),
    ),
)

_TRUE = Row(
    "Accuracy",
    (
        lines(
            "Predicted ÷ observed clicks",
            "Latest 10,000 joined impressions; 1 is right. With few clicks it says little.",
            "short",
            (series("msd_predicted_over_observed"), "{{instance}}"),
            limit=1.25,
        ),
        lines(
            "Joined impressions and clicks",
            "The data of the ratio beside.",
            "short",
            (total("msd_joined_impressions"), "impressions"),
            (total("msd_joined_clicks"), "clicks"),
        ),
        lines(
            "Predicted ÷ observed clicks by rank",
            "The same impressions, by rank among the candidates of their request (by eCPM, or pCTR without "
            "bids). Above 1 at rank 1: winners are overpredicted, and paid too much for.",
            "short",
            (_winners("rank"), "rank {{rank}}"),
            limit=1.25,
        ),
        lines(
            "Predicted ÷ observed clicks by bid",
            "The same impressions, by quarter of their bids; none: without a bid.",
            "short",
            (_winners("bid"), "{{bid}}"),
            limit=1.25,
        ),
        lines(
            "Drift of scores",
            "Population stability index against valid rows: below .1 is harmless; act from .25 on.",
            "short",
            (f"max by (head) ({series('msd_score_psi')})", "{{head}}"),
            limit=0.25,
        ),
        lines(
            "Drift of inputs, top ten",
            "PSI of inputs. Some distance is normal for items; watch for changes.",
            "short",
            (f"topk(10, max by (feature) ({series('msd_input_psi')}))", "{{feature}}"),
            limit=0.25,
        ),
    ),
)

_ARMS = Row(
    "Experiments",
    (
        stack(
            "Requests by arm",
            "If there are several.",
            "reqps",
            (rate("msd_arm_requests_total", "slot"), "slot {{slot}}"),
        ),
        lines(
            "Share of users by arm",
            "Shares of the experiment, and the slot of each arm.",
            "percentunit",
            (f"max by (slot, arm) ({series('msd_arm_share')})", "{{slot}} {{arm}}"),
        ),
        lines(
            "Distance of shadows from served scores",
            "Log-odds per candidate: median and p99.",
            "short",
            (quantile(0.5, "msd_shadow_shift", "slot", 'slot="1"'), "slot {{slot}} p50"),
            (quantile(0.99, "msd_shadow_shift", "slot", 'slot="1"'), "slot {{slot}} p99"),
        ),
        stack(
            "Requests for shadows",
            "Compared (scored), skipped because of other work (busy), failed.",
            "reqps",
            (rate("msd_shadow_requests_total", "result"), "{{result}}"),
        ),
    ),
)

_COLD = Row(
    "Cold ads",
    (
        stack(
            "Texts by result",
            "held, encoded: in time for their request; late: for the next one; dropped, failed: not at all.",
            "reqps",
            (rate("msd_encoded_total", "result"), "{{result}}"),
        ),
        lines(
            "Encoder",
            "Texts per second, and queued texts.",
            "short",
            (rate("msd_encoder_texts_total"), "texts a second"),
            (total("msd_encoder_waiting"), "waiting"),
        ),
        lines(
            "A run of the encoder",
            "Each run has several texts.",
            "s",
            (quantile(0.5, "msd_encoder_seconds"), "p50"),
            (quantile(0.99, "msd_encoder_seconds"), "p99"),
        ),
    ),
)

_LIVE = Row(
    "Live state",
    (
        stack(
            "Events",
            "By result. Each event counts once; duplicates were sent before.",
            "cps",
            (rate("msd_events_total", "outcome"), "{{outcome}}"),
        ),
        stack(
            "Requests with events by status",
            "202: the events are durable; 503: Redis or the disk does not accept them; send them again.",
            "reqps",
            (rate("msd_event_requests_total", "code"), "{{code}}"),
        ),
        lines(
            "Requests with events, latency",
            "From the first byte read to the reply.",
            "s",
            (quantile(0.5, "msd_event_request_seconds"), "p50"),
            (quantile(0.99, "msd_event_request_seconds"), "p99"),
        ),
        lines(
            "Unusual events",
            "late: after a newer one; in_row: already in a row; ahead: of the clock; unknown: without a row.",
            "cps",
            (rate("msd_events_noted_total", "what"), "{{what}}"),
        ),
        lines(
            "Age of the user's counts",
            "As given to the model.",
            "s",
            (quantile(0.5, "msd_live_age_seconds"), "p50"),
            (quantile(0.99, "msd_live_age_seconds"), "p99"),
        ),
        lines(
            "Since the newest event",
            "After a long pause counts are treated as old.",
            "s",
            (f"time() - max ({series('msd_newest_event_timestamp_seconds')} > 0)", "newest event"),
        ),
        lines(
            "Failed reads of live states",
            "These requests are scored with the counts of their rows.",
            "reqps",
            (rate("msd_live_errors_total"), "failed"),
        ),
    ),
)

_LOG = Row(
    "Request log",
    (
        lines(
            "Sampled requests",
            "handed to the writer or dropped; then written, or lost if the disk is full.",
            "reqps",
            (rate("msd_log_records_total", "result"), "{{result}}"),
        ),
        lines(
            "Events for the log",
            "unsampled: of requests that were not logged.",
            "cps",
            (rate("msd_log_events_total", "result"), "{{result}}"),
        ),
        lines(
            "Share of records lost",
            "Dropped or lost share of the sampled records.",
            "percentunit",
            (
                ratio(
                    rate("msd_log_records_total", where='result=~"dropped|lost"'),
                    rate("msd_log_records_total", where='result=~"dropped|handed"'),
                ),
                "lost",
            ),
            limit=0.01,
        ),
        lines("Disk", "Size of the log's files.", "bytes", (total("msd_log_bytes", "instance"), "{{instance}}")),
    ),
)

QUALITY = Board(
    "msd-quality",
    "msd-ctr: model quality",
    "Sources of scores, calibration, drift, experiments, live state and the request log.",
    (_FROM, _TRUE, _ARMS, _COLD, _LIVE, _LOG),
)
