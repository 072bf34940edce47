"""All metric families of the service, with buckets and labels, whose values come from closed sets or the bundle.

Written by all threads, read only by scrapes. Does not know when things happen.
"""

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from msd.contract.bundle import Manifest
from msd.contract.correction import CONVERSIONS, HEAD, LearnedCorrection
from msd.contract.log import KINDS
from msd.contract.rows import RowSide
from msd.contract.tensors import Rung, UserRung
from service.machine import memory_limit, own_memory
from service.runtimes.runtime import Engine
from service.settings import Build
from service.telemetry.logs import LINE_RESULTS
from service.telemetry.metric_types import Children, K, Labels, Merged, ReadFamily, add_counts, bounds_of

Stage = Literal["parse", "rows", "queue", "run", "reply"]
Shed = Literal["rows", "wait", "deadline", "client_gone", "explain"]
ColdText = Literal["held", "encoded", "late", "dropped", "failed"]
Tier = Literal["file", "arena", "stale", "redis", "missing"]
EventOutcome = Literal["accepted", "duplicate"]
EventNote = Literal["late", "in_row", "ahead", "unknown_user", "unknown_item", "conversion"]
ItemFate = Literal["accepted", "unchanged", "older", "removed", "expired", "absent", "outdated", "full"]
Swap = Literal["done", "refused", "postponed"]
Close = Literal["handshake", "slow_head", "unread_body", "slow_reader", "bad_http", "out_of_room", "made_room", "full"]
KeyRefusal = Literal["missing", "unknown", "expired", "scope", "stale"]
Watched = Literal["bundle", "corrections", "keys", "tls"]
Logged = Literal["handed", "dropped", "written", "lost"]
Shadowed = Literal["scored", "busy", "failed"]
Explored = Literal["explored", "exploited", "unavailable"]
OpenrtbUser = Literal["given", "missing", "no_consent"]
STAGES: tuple[Stage, ...] = get_args(Stage)
RUNGS: dict[RowSide, tuple[str, ...]] = {"user": get_args(UserRung), "item": get_args(Rung)}
"""Replacements of a fresh row, by side."""
STORE_STATES = ("up", "slow", "refusing", "down")
CODES = (200, 400, 401, 403, 404, 408, 413, 415, 422, 429, 499, 500, 503, 504)
EVENT_CODES = (202, 400, 401, 403, 404, 408, 413, 415, 422, 429, 499, 500, 503)
MAX_ARMS, MAX_SHADOWS = 8, 2
# Of what the native core counts.
_NATIVE_CODES = (200, 429, 499, 504)
_NATIVE_SHEDS: tuple[Shed, ...] = ("rows", "wait", "deadline", "client_gone")
_NATIVE_TIERS: tuple[Tier, ...] = ("file", "arena", "missing")
RANKS, BID_QUARTERS = ("1", "2-5", "6+"), ("lowest", "low", "high", "highest", "none")
_SIDES: tuple[RowSide, ...] = ("user", "item")
_RUNTIME_LABELS = ("runtime", "version", "provider", "device", "threads", "precision", "instructions")
_SHIFTS = (1e-4, 1e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0)
_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7.5e-3, 1e-2, 1.5e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1, 5)
_STAGE_SECONDS = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1, 5)
_HOLD_SECONDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 5)
_AGES = (1, 10, 60, 300, 900, 3_600, 7_200, 21_600, 86_400, 172_800, 604_800)
_CANDIDATES = (1, 10, 25, 50, 100, 200, 350, 500, 1000, 2000)

HELP = {
    # Scoring requests and their stages
    "msd_requests": "Completed scoring requests, by HTTP status; 499 if the client disconnected first.",
    "msd_request_seconds": "Seconds from first byte to reply, per scoring request answered with 200.",
    "msd_stage_seconds": "Seconds per stage of a scoring request.",
    "msd_request_candidates": "Candidates per scored request.",
    "msd_run_rows": "Candidates per model run.",
    "msd_degraded": "Users and candidates scored without a fresh row of their own, by fallback.",
    "msd_openrtb_requests": "BidRequests, by whether they gave a user ID that may be used.",
    "msd_openrtb_unfit_values": "Mapped values of BidRequests that do not fit their feature and count as missing.",
    "msd_explorations": "Scored requests with `explore`, by who chose the first candidate.",
    "msd_shed": "Scoring requests rejected or dropped, by reason.",
    "msd_partial": "Model runs that scored only the first candidates to meet the deadline.",
    "msd_shadow_requests": "Requests offered to shadows, by result.",
    "msd_shadow_shift": "Absolute difference of shadow and served pCTR in log-odds, per candidate.",
    # API keys, TLS and connections
    "msd_keys_refused": "Requests rejected for a missing or insufficient API key, by reason.",
    "msd_keys_stale": "1 if the API key file is unusable or cannot be read, else 0; the previous keys stay in use.",
    "msd_tls_stale": "1 if certificate or private key are unusable and the previous ones stay in use, else 0.",
    "msd_watched_age_seconds": "Seconds since watched files were last read and valid; 0 if none are watched.",
    "msd_connections": "Open client connections.",
    "msd_connections_limit": "Configured limit of open client connections.",
    "msd_inflight_bytes": "Bytes of incomplete or unanswered requests, over all connections.",
    "msd_connections_closed": "Client connections closed by the service, by reason.",
    # Rows, where they were found, and the state of their store
    "msd_store_errors": "Failed reads from the row store.",
    "msd_damaged_rows": "Rows read that were truncated, corrupt, too long, out of range or of another bundle.",
    "msd_rows": "Rows requested, by the tier that served them.",
    "msd_row_age_seconds": "Seconds since a row was written; one row is sampled per read.",
    "msd_stale_seconds": "Seconds since Redis last confirmed the cached rows, per read of stale rows.",
    "msd_store_state": "Open row stores, by state of their Redis connection.",
    "msd_arena_rows": "Rows cached in memory.",
    # The queue of scoring requests, and the threads that empty it
    "msd_queued_rows": "Candidates admitted and not yet scored.",
    "msd_queued_seconds": "Estimated seconds until one scoring thread alone has scored the queued candidates.",
    "msd_scoring_threads": "Configured scoring threads.",
    "msd_ready": "1 if the service accepts requests, else 0.",
    "msd_loop_silent_seconds": "Seconds since the event loop last reported progress; it reports ten times per second.",
    "msd_scoring_silent_seconds": "Seconds since any scoring thread began or ended a job while all are busy, else 0.",
    "msd_hold_seconds": "Seconds for which the event loop or the front's thread was held, per hold of 1 ms or more.",
    "msd_longest_run_seconds": "Seconds since the oldest running scoring job began; 0 if none runs.",
    # Texts of ads without a row
    "msd_encoded": "Texts of ads without a row, by result.",
    "msd_encoder_waiting": "Texts queued for the text encoder.",
    "msd_encoder_seconds": "Seconds per run of the text encoder; a run may encode several texts.",
    "msd_encoder_texts": "Texts encoded by the text encoder.",
    # Events and live state
    "msd_event_requests": "Completed requests to /v1/events, by HTTP status.",
    "msd_event_request_seconds": "Seconds from first byte to reply, per request to /v1/events answered with 202.",
    "msd_events": "Events received, by outcome.",
    "msd_events_noted": "Events out of order, already in a row, dated in the future, or without a row; conversions.",
    "msd_newest_event_timestamp_seconds": "Time of the newest event, in Unix seconds; NaN before the first.",
    "msd_live_errors": "Failed reads of live state.",
    "msd_damaged_states": "Live states read that were corrupt, too long or of another format, and count as none.",
    "msd_catalogue_items": "Items of the live catalogue, with removals that are remembered.",
    "msd_catalogue_items_limit": "Most items of the live catalogue; 0 without one.",
    "msd_catalogue_edits": "Upserts and removals of items received, by fate.",
    "msd_catalogue_behind_seconds": "Seconds since this service last followed the live catalogue; 0 without one.",
    "msd_catalogue_unencoded": "Items of the live catalogue whose text is not encoded yet, over the loaded bundles.",
    "msd_state_bytes": "Bytes of live states and events seen in `MSD_STATE_DIR`; 0 without.",
    "msd_evicted_states": "Live states of IDs without a row removed since the start, because states were too large.",
    "msd_live_age_seconds": "Age of the user's live counts in seconds, per request scored with them.",
    # What is served, and swaps
    "msd_swaps": "Attempts to change the served deployment, by result.",
    "msd_bundle_refused": "1 if the wanted bundle was rejected and is not served, else 0.",
    "msd_arm_requests": "Requests scored per arm of an experiment.",
    "msd_arm_share": "Share of users assigned to an arm, from 0 to 1.",
    "msd_bundle_info": "1 for each served bundle.",
    "msd_runtime_info": "1 for each model runtime in use, as read back after loading.",
    "msd_native_info": "1 for the CPU instructions that the native core uses.",
    # The service's log and the request log
    "msd_log_lines": "Lines for stdout and stderr, by result.",
    "msd_log_records": "Sampled requests for the request log, by result.",
    "msd_log_events": "Events for the request log, by result.",
    "msd_log_waiting": "Accepted records that are not in a file yet, by kind.",
    "msd_log_bytes": "Bytes of request log files on disk.",
    # Logged requests against the bundle's reference and against observed clicks
    "msd_input_psi": "Population stability index of recent inputs against the bundle's reference, per input.",
    "msd_score_psi": "Population stability index of recent scores against the bundle's reference, per head.",
    "msd_shown_expected_clicks": "Sum of pCTR of joined impressions, by rank in the request and quarter of bids.",
    "msd_shown_clicks": "Clicks of joined impressions, by rank in the request and quarter of bids.",
    "msd_expected_outcomes": "Sum of pctr over recent joined impressions, or of pcvr over their clicks, by segment.",
    "msd_observed_outcomes": "Clicks (pctr) or conversions (pcvr) of these, by segment.",
    "msd_correction_shift": "Correction of scores in log-odds at their centre, per bundle and head, without segments.",
    "msd_correction_slope": "Factor by which the log-odds of scores are stretched, per corrected bundle and head.",
    "msd_correction_timestamp_seconds": "Newest impression that a correction knows, in Unix seconds, per bundle.",
    "msd_corrections_stale": "1 if the file of corrections is unusable and the previous ones stay in use, else 0.",
    # The process, beyond the default metrics of Prometheus's client
    "msd_build_info": "1 for the running release; the commit is empty if unknown.",
    "msd_memory_own_bytes": "Memory of the process in bytes, without mapped files; NaN if unknown.",
    "msd_memory_limit_bytes": "Memory limit of the process in bytes, from its control groups; NaN without a limit.",
}


class CachingStore(Protocol):
    """A store of rows that keeps some of a server's in memory. For any thread."""

    @property
    def state(self) -> str: ...

    def cached_rows(self, side: RowSide) -> int: ...


class Metrics:
    """The families of one service. All closed label values exist from the start, so that rates can be computed.

    Attributes that are dicts map label values to the children of a family.
    """

    def __init__(self) -> None:
        self.families = CollectorRegistry()
        self.native = Merged(self.families)
        """Merges what the native core has counted."""
        # A global switch of the library: `_created` would double the series of all counters and histograms.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.caching_stores = set[CachingStore]()
        """Open stores whose state and rows are read on each scrape."""
        self._declare_scoring()
        self._declare_rows()
        self._declare_lineup()
        self._declare_logs()
        self._declare_process()

    def _declare_scoring(self) -> None:
        """Requests, their stages, connections, the queue, and texts of cold ads."""
        self._requests = self._counters("msd_requests", "code", CODES)
        self._request_seconds = self._histogram("msd_request_seconds", _SECONDS)
        self.stages = self._histograms("msd_stage_seconds", "stage", STAGES, _STAGE_SECONDS)
        self.candidates = self._histogram("msd_request_candidates", _CANDIDATES)
        self.run_rows = self._histogram("msd_run_rows", _CANDIDATES)
        degraded = Counter("msd_degraded", HELP["msd_degraded"], ("side", "rung"), registry=self.families)
        self._degraded = {(side, rung): degraded.labels(side, rung) for side in _SIDES for rung in RUNGS[side]}
        self.explorations = self._counters("msd_explorations", "result", get_args(Explored))
        self.openrtb = self._counters("msd_openrtb_requests", "user", get_args(OpenrtbUser))
        self.openrtb_unfit = self._counter("msd_openrtb_unfit_values")
        self.sheds = self._counters("msd_shed", "reason", get_args(Shed))
        self.partial = self._counter("msd_partial")
        self.keys_refused = self._counters("msd_keys_refused", "reason", get_args(KeyRefusal))
        self.keys_stale = self._gauge("msd_keys_stale")
        self.tls_stale = self._gauge("msd_tls_stale")
        self.watched_ages = self._gauges("msd_watched_age_seconds", "what", get_args(Watched))
        self.connections = self._gauge("msd_connections")
        self.connections_limit = self._gauge("msd_connections_limit")
        self.inflight_bytes = self._gauge("msd_inflight_bytes")
        self.closed = self._counters("msd_connections_closed", "reason", get_args(Close))
        self.queued_rows = self._gauge("msd_queued_rows")
        self.queued_seconds = self._gauge("msd_queued_seconds")
        self.scoring_threads = self._gauge("msd_scoring_threads")
        self.ready = self._gauge("msd_ready")
        self.cold_texts = self._counters("msd_encoded", "result", get_args(ColdText))
        self.encoder_waiting = self._gauge("msd_encoder_waiting")
        self.encoder_seconds = self._histogram("msd_encoder_seconds", _STAGE_SECONDS)
        self.encoder_texts = self._counter("msd_encoder_texts")

    def _declare_rows(self) -> None:
        self.store_errors = self._counter("msd_store_errors")
        self._damaged = self._counters("msd_damaged_rows", "side", _SIDES)
        self.rows = self._counters("msd_rows", "tier", get_args(Tier))
        self.row_ages = self._histograms("msd_row_age_seconds", "side", _SIDES, _AGES)
        self.stale_ages = self._histogram("msd_stale_seconds", _AGES)
        self._read_family("msd_store_state", "state").read = self._store_states
        self._read_family("msd_arena_rows", "side").read = self._cached_rows
        self._event_requests = self._counters("msd_event_requests", "code", EVENT_CODES)
        self._event_seconds = self._histogram("msd_event_request_seconds", _SECONDS)
        self.events = self._counters("msd_events", "outcome", get_args(EventOutcome))
        self.events_noted = self._counters("msd_events_noted", "what", get_args(EventNote))
        self.newest_event = self._gauge("msd_newest_event_timestamp_seconds", math.nan)
        self.live_errors = self._counter("msd_live_errors")
        self.damaged_states = self._counter("msd_damaged_states")
        self.catalogue_items = self._gauge("msd_catalogue_items")
        self.catalogue_limit = self._gauge("msd_catalogue_items_limit")
        self.catalogue_edits = self._counters("msd_catalogue_edits", "fate", get_args(ItemFate))
        self.catalogue_behind = self._gauge("msd_catalogue_behind_seconds")
        self.catalogue_unencoded = self._gauge("msd_catalogue_unencoded")
        self.state_bytes = self._gauge("msd_state_bytes")
        self.evicted_states = self._gauge("msd_evicted_states")
        self.live_ages = self._histogram("msd_live_age_seconds", _AGES)

    def _declare_lineup(self) -> None:
        self.swaps = self._counters("msd_swaps", "result", get_args(Swap))
        self.refused = self._gauge("msd_bundle_refused")
        self.arms = self._counters("msd_arm_requests", "slot", range(1, MAX_ARMS + 1))
        self._shares = self._read_family("msd_arm_share", "slot", "arm", "bundle_id")
        self._bundles = self._read_family("msd_bundle_info", "bundle_id", "model_version", "store")
        self._runtimes = self._read_family("msd_runtime_info", *_RUNTIME_LABELS)
        self._natives = self._read_family("msd_native_info", "instructions")
        self.shadows = self._counters("msd_shadow_requests", "result", get_args(Shadowed))
        self._shadow_shifts = self._histograms("msd_shadow_shift", "slot", range(1, MAX_SHADOWS + 1), _SHIFTS)

    def _declare_logs(self) -> None:
        self.log_lines = self._read_family("msd_log_lines", "result", is_counter=True)
        self.log_lines.replace(dict.fromkeys(LINE_RESULTS, 0.0))
        self.log_records = self._counters("msd_log_records", "result", get_args(Logged))
        self.log_events = self._counters("msd_log_events", "result", (*get_args(Logged), "unsampled"))
        self.log_waiting = self._gauges("msd_log_waiting", "kind", KINDS)
        self.log_bytes = self._gauge("msd_log_bytes")
        self._input_psi = self._read_family("msd_input_psi", "feature")
        self._score_psi = self._read_family("msd_score_psi", "head")
        self._referenced = ""
        self._drift_lock = threading.Lock()
        self._expected = self._read_family("msd_shown_expected_clicks", "rank", "bid")
        self._clicks = self._read_family("msd_shown_clicks", "rank", "bid")
        self._expected_outcomes = self._read_family("msd_expected_outcomes", "head", "segment")
        self._observed_outcomes = self._read_family("msd_observed_outcomes", "head", "segment")
        self._shifts = self._read_family("msd_correction_shift", "bundle_id", "head")
        self._slopes = self._read_family("msd_correction_slope", "bundle_id", "head")
        self._corrected_at = self._read_family("msd_correction_timestamp_seconds", "bundle_id", "head")
        self.corrections_stale = self._gauge("msd_corrections_stale")

    def _declare_process(self) -> None:
        """The process: by the default names of Prometheus's clients, and what these lack."""
        ProcessCollector(registry=self.families)
        self._build = self._read_family("msd_build_info", "version", "commit")
        self._gauge("msd_memory_own_bytes").set_function(own_memory)
        self._gauge("msd_memory_limit_bytes").set_function(memory_limit)
        self.loop_silent = self._gauge("msd_loop_silent_seconds")
        self.scoring_silent = self._gauge("msd_scoring_silent_seconds")
        self.longest_run = self._gauge("msd_longest_run_seconds")
        self._holds = self._histograms("msd_hold_seconds", "thread", ("front", "event_loop"), _HOLD_SECONDS)

    def _counter(self, name: str) -> Counter:
        return Counter(name, HELP[name], registry=self.families)

    def _counters(self, name: str, label: str, values: Iterable[K]) -> Children[K, Counter]:
        return Children(Counter(name, HELP[name], (label,), registry=self.families), values)

    def _gauge(self, name: str, value: float = 0.0) -> Gauge:
        gauge = Gauge(name, HELP[name], registry=self.families)
        gauge.set(value)
        return gauge

    def _gauges(self, name: str, label: str, values: Iterable[K]) -> Children[K, Gauge]:
        return Children(Gauge(name, HELP[name], (label,), registry=self.families), values)

    def _read_family(self, name: str, *labels: str, is_counter: bool = False) -> ReadFamily:
        return ReadFamily(name, HELP[name], labels, self.families, is_counter)

    def _histogram(self, name: str, bounds: Sequence[float]) -> Histogram:
        return Histogram(name, HELP[name], buckets=bounds, registry=self.families)

    def _histograms(
        self, name: str, label: str, values: Iterable[K], bounds: Sequence[float]
    ) -> Children[K, Histogram]:
        return Children(Histogram(name, HELP[name], (label,), buckets=bounds, registry=self.families), values)

    @property
    def native_bounds(self) -> tuple[tuple[float, ...], ...]:
        """Return the bounds of the histograms that the native core fills."""
        return tuple(map(bounds_of, self._native_histograms()))

    def add_native(self, counts: Sequence[int], measures: Sequence[tuple[Sequence[int], float]]) -> dict[Shed, int]:
        """Add what the native core has counted since the last time; return how many requests were shed, by reason."""
        for counter, count in zip(self._native_counters(), counts, strict=True):
            if count:
                counter.inc(count)
        for histogram, measure in zip(self._native_histograms(), measures, strict=True):
            add_counts(histogram, *measure)
        start = len(_NATIVE_CODES)
        sheds = zip(_NATIVE_SHEDS, counts[start : start + len(_NATIVE_SHEDS)], strict=True)
        return {reason: count for reason, count in sheds if count}

    def _native_counters(self) -> list[Counter]:
        """Return the counters in the order of `native/engine/tally.hpp`."""
        return [
            *(self._requests[code] for code in _NATIVE_CODES),
            *(self.sheds[reason] for reason in _NATIVE_SHEDS),
            self.partial,
            *(self.rows[tier] for tier in _NATIVE_TIERS),
            *(self._degraded[side, rung] for side in _SIDES for rung in RUNGS[side]),
            *self.explorations.values(),
            *(self.closed[reason] for reason in get_args(Close) if reason != "handshake"),
            *self.openrtb.values(),
            self.openrtb_unfit,
            *self.arms.values(),
        ]

    def _native_histograms(self) -> list[Histogram]:
        """Return the histograms in the same file's order."""
        return [
            self._request_seconds,
            *self.stages.values(),
            self.candidates,
            self.run_rows,
            *self.row_ages.values(),
            self.live_ages,
            *self._holds.values(),
        ]

    def request(self, code: int, seconds: float) -> None:
        """Count a scoring request that ended with `code`."""
        self._requests[code].inc()
        # Refusals are quick: counting them would make an overloaded service look fast.
        if code == 200:
            self._request_seconds.observe(seconds)

    def event_request(self, code: int, seconds: float) -> None:
        """Count a request to /v1/events that ended with `code`."""
        self._event_requests[code].inc()
        if code == 202:
            self._event_seconds.observe(seconds)

    def _store_states(self) -> dict[str, float]:
        states = [store.state for store in self.caching_stores.copy()]
        return {state: states.count(state) for state in STORE_STATES}

    def _cached_rows(self) -> dict[str, float]:
        return {side: sum(store.cached_rows(side) for store in self.caching_stores.copy()) for side in _SIDES}

    def damaged(self, side: RowSide, count: int) -> None:
        if count:
            self._damaged[side].inc(count)

    def shown(self, expected: NDArray[np.float64], clicks: NDArray[np.float64]) -> None:
        """Set the expected and observed clicks [ranks, bid quarters] of what was shown."""
        labels = [(rank, bid) for rank in RANKS for bid in BID_QUARTERS]
        self._expected.replace(dict(zip(labels, expected.ravel().tolist(), strict=True)))
        self._clicks.replace(dict(zip(labels, clicks.ravel().tolist(), strict=True)))

    def outcomes(self, by_head: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
        """Set the expected and observed outcomes by head and segment."""
        for place, gauge in enumerate((self._expected_outcomes, self._observed_outcomes)):
            gauge.replace({(head, name): pair[place] for head, own in by_head.items() for name, pair in own.items()})

    def shadow_shift(self, slot: int, shifts: NDArray[np.float64]) -> None:
        """Count the shifts [n] of one request's candidates."""
        observe = self._shadow_shifts[slot].observe
        for shift in shifts.tolist():
            observe(shift)

    def runs(self, build: Build, instructions: str) -> None:
        self._build.replace({build: 1.0})
        self._natives.replace({(instructions,): 1.0})

    def serves(
        self,
        bundles: Iterable[Labels],
        engines: Iterable[Engine],
        shares: Iterable[tuple[Labels, float]],
    ) -> None:
        """Set what is served: (id, model version, store) of each bundle, the runtimes, and (slot, name, bundle id) and
        share of users of each arm."""
        self._bundles.replace(dict.fromkeys(bundles, 1.0))
        self._runtimes.replace({_labels_of(engine): 1.0 for engine in engines})
        self._shares.replace(dict(shares))

    def reference(self, manifest: Manifest) -> None:
        """Accept drift against this bundle only; drop drift against others."""
        with self._drift_lock:
            if manifest.sha256 != self._referenced:
                self._input_psi.replace({})
                self._score_psi.replace({})
            self._referenced = manifest.sha256

    def corrected(self, by_bundle: Mapping[str, LearnedCorrection]) -> None:
        """Set the corrections in force, by bundle_id."""
        found = {(bundle, HEAD): own for bundle, own in by_bundle.items()}
        found |= {(bundle, CONVERSIONS): own.conversions for bundle, own in by_bundle.items() if own.conversions}
        self._shifts.replace({labels: own.shift for labels, own in found.items()})
        self._slopes.replace({labels: own.slope for labels, own in found.items()})
        self._corrected_at.replace({labels: own.at for labels, own in found.items()})

    def drift(self, manifest_sha256: str, inputs: Mapping[str, float], heads: Mapping[str, float]) -> None:
        """Set the drift of inputs and heads by name; NaN if unknown. Ignored unless the bundle is the last one given to
        `reference`."""
        with self._drift_lock:
            if manifest_sha256 == self._referenced:
                self._input_psi.replace(_known(inputs))
                self._score_psi.replace(_known(heads))

    def exposition(self) -> bytes:
        return generate_latest(self.families)


def _labels_of(engine: Engine) -> Labels:
    return (
        engine.name,
        engine.version,
        engine.provider,
        engine.device,
        str(engine.threads),
        engine.precision,
        " ".join(engine.instructions),
    )


def _known(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not math.isnan(value)}
