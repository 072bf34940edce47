"""Every metric family of the service, its buckets and its labels, whose values come from closed sets or the bundle.

Written by every thread, read by scrapes alone. Does not know when things happen.
"""

import math
import threading
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from prometheus_client import ProcessCollector, generate_latest

from msd.contract.assemble import Rung, UserRung
from msd.contract.bundle import Manifest
from msd.contract.rows import RowSide
from service.runtimes.runtime import Engine
from service.telemetry.metric_types import Families, Labels

Stage = Literal["parse", "rows", "queue", "run", "reply"]
Shed = Literal["rows", "wait", "deadline", "client_gone", "explain"]
STAGES: tuple[Stage, ...] = ("parse", "rows", "queue", "run", "reply")
SHEDS: tuple[Shed, ...] = ("rows", "wait", "deadline", "client_gone", "explain")
RUNGS: tuple[str, ...] = ("user_unknown", "user_cached", "cached", "encoded", "category_prior", "prior")
ColdText = Literal["held", "encoded", "shared", "redis", "late", "dropped", "failed"]
COLD_TEXTS: tuple[ColdText, ...] = ("held", "encoded", "shared", "redis", "late", "dropped", "failed")
Tier = Literal["file", "arena", "stale", "redis", "missing"]
TIERS: tuple[Tier, ...] = ("file", "arena", "stale", "redis", "missing")
STORE_STATES = ("up", "slow", "refusing", "down")
FILLS = ("off", "waiting", "filling", "full", "done")
EventOutcome = Literal["accepted", "duplicate"]
EVENT_OUTCOMES: tuple[EventOutcome, ...] = ("accepted", "duplicate")
EventNote = Literal["late", "in_row", "ahead", "unknown_user", "unknown_item"]
EVENT_NOTES: tuple[EventNote, ...] = ("late", "in_row", "ahead", "unknown_user", "unknown_item")
Swap = Literal["done", "refused", "postponed"]
SWAPS: tuple[Swap, ...] = ("done", "refused", "postponed")
Close = Literal["handshake", "slow_head", "slow_reader", "bad_http", "made_room", "full"]
CLOSES: tuple[Close, ...] = ("handshake", "slow_head", "slow_reader", "bad_http", "made_room", "full")
KeyRefusal = Literal["missing", "unknown", "expired", "scope"]
KEY_REFUSALS: tuple[KeyRefusal, ...] = ("missing", "unknown", "expired", "scope")
CODES = (200, 400, 401, 403, 404, 408, 413, 415, 422, 429, 499, 500, 503, 504)
Logged = Literal["handed", "dropped", "written", "lost"]
LOGGED: tuple[Logged, ...] = ("handed", "dropped", "written", "lost")
TRACES = ("sent", "dropped", "failed")
MAX_ARMS, MAX_SHADOWS = 8, 2
Shadowed = Literal["scored", "busy", "failed"]
SHADOWED: tuple[Shadowed, ...] = ("scored", "busy", "failed")
_SIDES: tuple[RowSide, ...] = ("user", "item")
_SHIFTS = (1e-4, 1e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0)
_ARM_LABELS = ("slot", "arm", "bundle_id")
_BUNDLE_LABELS = ("bundle_id", "model_version", "store")
_NATIVE_LABELS = ("path", "instructions")
_RUNTIME_LABELS = ("runtime", "version", "provider", "device", "graphs", "threads", "precision", "instructions")
_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7.5e-3, 1e-2, 1.5e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1, 5)
_STAGE_SECONDS = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1, 5)
_AGES = (1, 10, 60, 300, 900, 3_600, 7_200, 21_600, 86_400, 172_800, 604_800)
_CANDIDATES = (1, 10, 25, 50, 100, 200, 350, 500, 1000, 2000)


class Metrics:
    """The families of one service. All closed label values exist from the start, so that rates can be taken."""

    def __init__(self) -> None:
        self.families = families = Families()
        ProcessCollector(registry=families)
        self._declare_requests(families)
        self._declare_entry(families)
        self._declare_store(families)
        self._declare_queue(families)
        self._declare_cold_ads(families)
        self._declare_log(families)
        self._declare_drift(families)
        self._declare_events(families)
        self._declare_lineup(families)
        self._declare_shadows(families)

    def _declare_requests(self, families: Families) -> None:
        """Scoring requests and their stages."""
        requests = families.counters(
            "msd_requests",
            "Scoring requests that ended, by HTTP status; 499: the client disconnected first.",
            "code",
            map(str, CODES),
        )
        self._requests = {int(code): counter for code, counter in requests.items()}
        self._request_seconds = families.histogram(
            "msd_request_seconds",
            "Seconds from the first byte of a scoring request to its reply, per request answered with 200.",
            _SECONDS,
        )
        self.stages = families.histograms(
            "msd_stage_seconds", "Seconds per stage of a scoring request.", "stage", STAGES, _STAGE_SECONDS
        )
        """By stage."""
        self.candidates = families.histogram("msd_request_candidates", "Candidates per scored request.", _CANDIDATES)
        self.run_rows = families.histogram(
            "msd_run_rows", "Candidates per model run; a run may score several requests.", _CANDIDATES
        )
        self._degraded = families.counters(
            "msd_degraded",
            "Users and candidates scored without a fresh row of their own, by what was used instead.",
            "rung",
            RUNGS,
        )
        self.sheds = families.counters("msd_shed", "Scoring requests rejected or dropped, by reason.", "reason", SHEDS)
        """By reason."""
        self.partial = families.counter(
            "msd_partial", "Model runs that scored only the first candidates to meet the deadline."
        )

    def _declare_entry(self, families: Families) -> None:
        """API keys, TLS and connections."""
        self.keys_refused = families.counters(
            "msd_keys_refused",
            "Requests rejected for a missing or insufficient API key, by reason.",
            "reason",
            KEY_REFUSALS,
        )
        """By reason."""
        self.keys_stale = families.gauge(
            "msd_keys_stale", "1 if the API key file is unusable and the keys read before are in use, else 0."
        )
        self.tls_stale = families.gauge(
            "msd_tls_stale", "1 if certificate or private key are unusable and those read before are in use, else 0."
        )
        self.connections = families.gauge("msd_connections", "Open client connections.")
        self.closed = families.counters(
            "msd_connections_closed", "Client connections closed by the service, by reason.", "reason", CLOSES
        )
        """By reason."""

    def _declare_store(self, families: Families) -> None:
        """Rows, where they were found, and the state of their store."""
        self.store_errors = families.counter("msd_store_errors", "Failed reads from the row store.")
        self._damaged = families.counters(
            "msd_damaged_rows", "Rows read that were truncated, corrupt or of another bundle.", "side", _SIDES
        )
        self.rows = families.counters("msd_rows", "Rows requested, by the tier that served them.", "tier", TIERS)
        """By tier."""
        self.row_ages = families.histograms(
            "msd_row_age_seconds",
            "Seconds since a row was written; one row is sampled per read.",
            "side",
            _SIDES,
            _AGES,
        )
        """By side."""
        self.stale_ages = families.histogram(
            "msd_stale_seconds", "Seconds since Redis last confirmed the cached rows, per read of stale rows.", _AGES
        )
        self.store_states = families.gauges(
            "msd_store_state", "Open row stores, by state of their Redis connection.", "state", STORE_STATES
        )
        """By state."""
        self.fills = families.gauges("msd_fill_state", "Open row stores, by state of their cache fill.", "state", FILLS)
        """By state."""
        self.arena_rows = families.gauges("msd_arena_rows", "Rows cached in memory.", "side", _SIDES)
        """By side."""

    def _declare_queue(self, families: Families) -> None:
        """The queue of scoring requests, and the threads that empty it."""
        self.queued_rows = families.gauge("msd_queued_rows", "Candidates admitted and not yet scored.")
        self.queued_seconds = families.gauge(
            "msd_queued_seconds", "Estimated seconds until one scoring thread alone has scored the queued candidates."
        )
        self.scoring_threads = families.gauge("msd_scoring_threads", "Configured scoring threads.")
        self.ready = families.gauge("msd_ready", "1 if the service accepts requests, else 0.")

    def _declare_cold_ads(self, families: Families) -> None:
        """Texts of ads without a row."""
        self.cold_texts = families.counters(
            "msd_encoded", "Texts of ads without a row, by result for their request.", "result", COLD_TEXTS
        )
        """By result."""
        self.encoder_waiting = families.gauge("msd_encoder_waiting", "Texts queued for the text encoder.")
        self.encoder_seconds = families.histogram(
            "msd_encoder_seconds",
            "Seconds per run of the text encoder; a run may encode several texts.",
            _STAGE_SECONDS,
        )
        self.encoder_texts = families.counter("msd_encoder_texts", "Texts encoded by the text encoder.")
        self.shelf_damaged = families.counter(
            "msd_encoded_damaged", "Vectors read from Redis that were truncated, corrupt or of another text."
        )

    def _declare_log(self, families: Families) -> None:
        """The request log and traces."""
        self.log_records = families.counters(
            "msd_log_records", "Sampled requests for the request log, by result.", "result", LOGGED
        )
        """By result."""
        self.log_events = families.counters(
            "msd_log_events", "Events for the request log, by result.", "result", (*LOGGED, "unsampled")
        )
        """By result."""
        self.log_bytes = families.gauge("msd_log_bytes", "Bytes of request log files on disk.")
        self.traces = families.counters(
            "msd_traces", "Traces of requests, by result of their export.", "result", TRACES
        )
        """By result."""

    def _declare_drift(self, families: Families) -> None:
        """Logged requests against the bundle's reference and against observed clicks."""
        self._input_psi = families.gauge_set(
            "msd_input_psi",
            "Population stability index of recent inputs against the bundle's reference, per input.",
            ["feature"],
        )
        self._score_psi = families.gauge_set(
            "msd_score_psi",
            "Population stability index of recent scores against the bundle's reference, per head.",
            ["head"],
        )
        self._referenced = ""
        self._drift_lock = threading.Lock()
        self.predicted_over_observed = families.gauge(
            "msd_predicted_over_observed",
            "Ratio of predicted to observed clicks of recent joined impressions; 0 if unknown.",
        )
        self.joined_impressions = families.gauge(
            "msd_joined_impressions", "Recent impressions joined to their logged scores."
        )
        self.joined_clicks = families.gauge("msd_joined_clicks", "Clicks among the joined impressions.")

    def _declare_events(self, families: Families) -> None:
        """Events and live state."""
        self.events = families.counters("msd_events", "Events received, by outcome.", "outcome", EVENT_OUTCOMES)
        """By outcome."""
        self.events_noted = families.counters(
            "msd_events_noted",
            "Events received out of order, already in a row, dated in the future, or without a row.",
            "what",
            EVENT_NOTES,
        )
        """By what was noted."""
        self.newest_event = families.gauge("msd_newest_event_seconds", "Time of the newest event, in Unix seconds.")
        self.live_errors = families.counter("msd_live_errors", "Failed reads of live state.")
        self.live_ages = families.histogram(
            "msd_live_age_seconds", "Age of the user's live counts in seconds, per request scored with them.", _AGES
        )

    def _declare_lineup(self, families: Families) -> None:
        """What is served, and swaps."""
        self.generation = families.gauge("msd_lineup_generation", "Number of the served line-up; each swap raises it.")
        self.swaps = families.counters(
            "msd_swaps", "Attempts to serve another bundle or other weights, by result.", "result", SWAPS
        )
        """By result."""
        self.refused = families.gauge(
            "msd_bundle_refused", "1 if the wanted bundle was refused and is not served, else 0."
        )
        arms = families.counters(
            "msd_arm_requests", "Requests scored per arm of an experiment.", "slot", map(str, range(1, MAX_ARMS + 1))
        )
        self.arms = {int(slot): counter for slot, counter in arms.items()}
        """By slot."""
        self._shares = families.gauge_set(
            "msd_arm_share", "Share of users assigned to an arm, from 0 to 1.", _ARM_LABELS
        )
        self._bundles = families.gauge_set("msd_bundle_info", "1 for each served bundle.", _BUNDLE_LABELS)
        self._runtimes = families.gauge_set(
            "msd_runtime_info", "1 for each model runtime, as read back after loading.", _RUNTIME_LABELS
        )

        self._natives = families.gauge_set(
            "msd_native_info",
            "1 for each way in which plain requests are scored: by the native core, or in Python.",
            _NATIVE_LABELS,
        )

    def _declare_shadows(self, families: Families) -> None:
        """Bundles that score copies of requests."""
        self.shadows = families.counters(
            "msd_shadow_requests", "Requests offered to shadows, by result.", "result", SHADOWED
        )
        """By result."""
        shifts = families.histograms(
            "msd_shadow_shift",
            "Absolute difference of shadow and served pCTR in log-odds, per candidate.",
            "slot",
            map(str, range(1, MAX_SHADOWS + 1)),
            _SHIFTS,
        )
        self._shadow_shifts = {int(slot): histogram for slot, histogram in shifts.items()}

    def request(self, code: int, seconds: float) -> None:
        """Count a scoring request that ended with `code`."""
        self._requests[code].inc()
        # Refusals are quick: counting them would make an overloaded service look fast.
        if code == 200:
            self._request_seconds.observe(seconds)

    def is_ready(self, ready: bool) -> None:
        """Set whether the service accepts requests."""
        self.ready.set(ready)

    def degraded(self, candidates: Iterable[Rung], user: UserRung | None) -> None:
        """Count what a reply declares as degraded."""
        if user:
            self._degraded[f"user_{user}"].inc()
        for rung, count in Tally(candidates).items():
            self._degraded[rung].inc(count)

    def damaged(self, side: RowSide, count: int) -> None:
        """Count unusable rows."""
        if count:
            self._damaged[side].inc(count)

    def shadow_shift(self, slot: int, shifts: NDArray[np.float64]) -> None:
        """Count the shifts [n] of one request's candidates."""
        observe = self._shadow_shifts[slot].observe
        for shift in shifts.tolist():
            observe(shift)

    def serves(
        self,
        bundles: Iterable[Labels],
        engines: Iterable[Engine],
        natives: Iterable[Labels],
        shares: Iterable[tuple[Labels, float]],
    ) -> None:
        """Set what is served: (id, model version, store) of each bundle, the runtimes, (path, instructions) of plain
        requests, and (slot, name, bundle id) and share of users of each arm."""
        self._bundles.replace(dict.fromkeys(bundles, 1.0))
        self._runtimes.replace({_labels_of(engine): 1.0 for engine in engines})
        self._natives.replace(dict.fromkeys(natives, 1.0))
        self._shares.replace(dict(shares))

    def reference(self, manifest: Manifest) -> None:
        """Accept drift against this bundle alone; drop that against another."""
        with self._drift_lock:
            if manifest.sha256 != self._referenced:
                self._input_psi.replace({})
                self._score_psi.replace({})
            self._referenced = manifest.sha256

    def drift(self, manifest_sha256: str, inputs: Mapping[str, float], heads: Mapping[str, float]) -> None:
        """Set the drift of inputs and heads by name; NaN if unknown. Ignored if the bundle is not the one that
        `reference` was given last."""
        with self._drift_lock:
            if manifest_sha256 == self._referenced:
                self._input_psi.replace(_known(inputs))
                self._score_psi.replace(_known(heads))

    def exposition(self) -> bytes:
        """Return all families in Prometheus's text format."""
        return generate_latest(self.families)


def _labels_of(engine: Engine) -> Labels:
    """The label values of `msd_runtime_info`."""
    return (
        engine.name,
        engine.version,
        engine.provider,
        engine.device,
        str(engine.graphs).lower(),
        str(engine.threads),
        engine.precision,
        " ".join(engine.instructions),
    )


def _known(values: Mapping[str, float]) -> dict[Labels, float]:
    return {(name,): value for name, value in values.items() if not math.isnan(value)}
