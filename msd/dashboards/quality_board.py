"""The dashboard of those who answer for the scores: what they were made from, and whether they come true."""

from msd.dashboards.board import Board, Row, lines, stack
from msd.dashboards.promql import quantile, rate, ratio, series, total

_CANDIDATES, _USERS = 'side="item"', 'side="user"'


def _winners(by: str) -> str:
    expected, clicks = (total(f"msd_shown_{what}", by) for what in ("expected_clicks", "clicks"))
    return f"{expected} / ({clicks} > 0)"


def _of_all(where: str, whole: str) -> str:
    return f"{rate('msd_degraded_total', 'rung', where)} / ignoring (rung) group_left {rate(whole)}"


_FROM = Row(
    "What scores are made from",
    (
        lines(
            "Candidates not scored from their own row",
            "Share by rung: cached (as last known), encoded (from their text), category_prior (from given "
            "features), prior (nothing "
            "known, or no time).",
            "percentunit",
            (_of_all(_CANDIDATES, "msd_request_candidates_sum"), "{{rung}}"),
        ),
        lines(
            "Users without a fresh row",
            "Share of the scored requests.",
            "percentunit",
            (_of_all(_USERS, "msd_request_candidates_count"), "{{rung}}"),
        ),
    ),
)

_TRUE = Row(
    "Whether they come true",
    (
        lines(
            "Predicted ÷ observed clicks",
            "Of the latest 10,000 joined impressions; 1 is right. With few clicks it says little.",
            "short",
            (series("msd_predicted_over_observed"), "{{instance}}"),
            limit=1.25,
        ),
        lines(
            "Joined impressions and clicks",
            "What the figure beside rests on.",
            "short",
            (total("msd_joined_impressions"), "impressions"),
            (total("msd_joined_clicks"), "clicks"),
        ),
        lines(
            "Predicted ÷ observed clicks by rank",
            "Of the same impressions, by their rank among the candidates of their request (by eCPM, or pCTR without "
            "bids). Above 1 at rank 1: winners are overpredicted, and paid too much for.",
            "short",
            (_winners("rank"), "rank {{rank}}"),
            limit=1.25,
        ),
        lines(
            "Predicted ÷ observed clicks by bid",
            "Of the same impressions, by quarter of their bids; none: without a bid.",
            "short",
            (_winners("bid"), "{{bid}}"),
            limit=1.25,
        ),
        lines(
            "Drift of scores",
            "Population stability index against valid rows: below .1 nothing is the matter, from .25 on act.",
            "short",
            (f"max by (head) ({series('msd_score_psi')})", "{{head}}"),
            limit=0.25,
        ),
        lines(
            "Drift of inputs, the ten farthest",
            "The same of inputs. Some distance is usual of items; watch what changes.",
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
            "Where there are several.",
            "reqps",
            (rate("msd_arm_requests_total", "slot"), "slot {{slot}}"),
        ),
        lines(
            "Share of users by arm",
            "As the experiment has it; which arm is in which slot.",
            "percentunit",
            (f"max by (slot, arm) ({series('msd_arm_share')})", "{{slot}} {{arm}}"),
        ),
        lines(
            "How far shadows are from what was served",
            "In log-odds of a candidate: median and farthest hundredth.",
            "short",
            (quantile(0.5, "msd_shadow_shift", "slot", 'slot="1"'), "slot {{slot}} p50"),
            (quantile(0.99, "msd_shadow_shift", "slot", 'slot="1"'), "slot {{slot}} p99"),
        ),
        stack(
            "Requests for shadows",
            "Compared (scored), left out because there was other work (busy), failed.",
            "reqps",
            (rate("msd_shadow_requests_total", "result"), "{{result}}"),
        ),
    ),
)

_COLD = Row(
    "Ads so new that they have no row",
    (
        stack(
            "Texts by what came of them",
            "held, shared, redis, encoded: in time for their request; late: for the next one; dropped, "
            "failed: not at all.",
            "reqps",
            (rate("msd_encoded_total", "result"), "{{result}}"),
        ),
        lines(
            "Encoder",
            "Texts a second, and texts that wait.",
            "short",
            (rate("msd_encoder_texts_total"), "texts a second"),
            (total("msd_encoder_waiting"), "waiting"),
        ),
        lines(
            "A run of the encoder",
            "Of several texts each.",
            "s",
            (quantile(0.5, "msd_encoder_seconds"), "p50"),
            (quantile(0.99, "msd_encoder_seconds"), "p99"),
        ),
        lines(
            "Vectors that could not be used",
            "Of texts, from Redis: short, changed or another text's; since the service's start.",
            "short",
            (total("msd_encoded_damaged_total"), "damaged"),
        ),
    ),
)

_LIVE = Row(
    "Live state",
    (
        stack(
            "Events told",
            "Each counts once; a duplicate was told before.",
            "cps",
            (rate("msd_events_total", "outcome"), "{{outcome}}"),
        ),
        stack(
            "Requests with events by status",
            "202: its events last; 503: neither Redis nor disk takes them, and they are to be sent again.",
            "reqps",
            (rate("msd_event_requests_total", "code"), "{{code}}"),
        ),
        lines(
            "Requests with events, latency",
            "From the first byte read to the reply that says that they last.",
            "s",
            (quantile(0.5, "msd_event_request_seconds"), "p50"),
            (quantile(0.99, "msd_event_request_seconds"), "p99"),
        ),
        lines(
            "Events of note",
            "late: after a later one; in_row: known to a row; ahead: of the clock; unknown: without a row.",
            "cps",
            (rate("msd_events_noted_total", "what"), "{{what}}"),
        ),
        lines(
            "Age of the user's counts",
            "As the model was told.",
            "s",
            (quantile(0.5, "msd_live_age_seconds"), "p50"),
            (quantile(0.99, "msd_live_age_seconds"), "p99"),
        ),
        lines(
            "Since the newest event",
            "Silence makes counts old.",
            "s",
            (f"time() - max ({series('msd_newest_event_timestamp_seconds')} > 0)", "newest event"),
        ),
        lines(
            "Reads of live states that failed",
            "Their requests are scored by the counts of their rows.",
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
            "handed to the writer or dropped; then written, or lost where the disk is full.",
            "reqps",
            (rate("msd_log_records_total", "result"), "{{result}}"),
        ),
        lines(
            "Events on the way to the log",
            "unsampled ones belong to requests that were not logged.",
            "cps",
            (rate("msd_log_events_total", "result"), "{{result}}"),
        ),
        lines(
            "Share of records lost",
            "Dropped or lost, of those that were sampled.",
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
        lines("Disk", "What the log's files take.", "bytes", (total("msd_log_bytes", "instance"), "{{instance}}")),
    ),
)

QUALITY = Board(
    "msd-quality",
    "msd-ctr: model quality",
    "What scores are made from, and whether they come true.",
    (_FROM, _TRUE, _ARMS, _COLD, _LIVE, _LOG),
)
