"""Every metric family of the service, its buckets and its labels, which come from closed sets.

Does not know when things happen, nor how several workers' numbers come together (`families`).
"""

from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily

from msd.contract.assemble import Rung, UserRung
from msd.contract.bundle import Manifest
from msd.contract.rows import RowSide
from service.families import Families
from service.processes import Processes
from service.runtimes.runtime import Engine
from service.shared import SUPERVISOR, SharedNumbers

Stage = Literal["parse", "rows", "queue", "run", "reply"]
Shed = Literal["rows", "wait", "deadline", "client_gone"]
STAGES: tuple[Stage, ...] = ("parse", "rows", "queue", "run", "reply")
SHEDS: tuple[Shed, ...] = ("rows", "wait", "deadline", "client_gone")
RUNGS: tuple[str, ...] = ("user_unknown", "user_cached", "cached", "encoded", "category_prior", "prior")
ColdText = Literal["held", "encoded", "shared", "redis", "late", "dropped", "failed"]
COLD_TEXTS: tuple[ColdText, ...] = ("held", "encoded", "shared", "redis", "late", "dropped", "failed")
Tier = Literal["file", "arena", "stale", "redis", "missing"]
TIERS: tuple[Tier, ...] = ("file", "arena", "stale", "redis", "missing")
STORE_STATES = ("up", "slow", "refusing", "down")
FILLS = ("off", "waiting", "filling", "full", "done")
SideName = Literal["recorder", "log", "encoder"]
SIDE_NAMES: tuple[SideName, ...] = ("recorder", "log", "encoder")
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
Shared = Literal["sibling", "own", "taken_back"]
SHARED: tuple[Shared, ...] = ("sibling", "own", "taken_back")
CODES = (200, 400, 401, 403, 404, 408, 413, 415, 422, 429, 499, 500, 503, 504)
Logged = Literal["handed", "dropped", "written", "lost"]
LOGGED: tuple[Logged, ...] = ("handed", "dropped", "written", "lost")
TRACES = ("sent", "dropped", "failed")
Labels = tuple[str, ...]
MAX_ARMS, MAX_SHADOWS = 8, 2
Shadowed = Literal["scored", "busy", "failed"]
SHADOWED: tuple[Shadowed, ...] = ("scored", "busy", "failed")
_SHIFTS = (1e-4, 1e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0)
_ARM_LABELS = ("slot", "arm", "bundle_id")
_BUNDLE_LABELS = ("bundle_id", "model_version", "store")
_RUNTIME_LABELS = ("runtime", "version", "provider", "device", "graphs", "threads", "precision", "instructions")
_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7.5e-3, 1e-2, 1.5e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1, 5)
_STAGE_SECONDS = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1, 5)
_AGES = (1, 10, 60, 300, 900, 3_600, 7_200, 21_600, 86_400, 172_800, 604_800)
_CANDIDATES = (1, 10, 25, 50, 100, 200, 350, 500, 1000, 2000)

_MOST_INPUTS, _MOST_HEADS = 128, 8


class Metrics:
    """The families of one process of a service; `row` is 0 for its supervisor, else its worker's slot.

    All label values exist from the start, so that rates can be taken of them.
    """

    def __init__(self, numbers: SharedNumbers | None = None, row: int = 1) -> None:
        numbers = numbers or SharedNumbers.create(1)
        self.families = families = Families(numbers, row)
        self.row = row
        self.processes = Processes(families, row)
        self._registry = CollectorRegistry()
        self._registry.register(families)
        self._declare_requests(families)
        self._declare_entry(families)
        self._declare_store(families)
        self._declare_queue(families)
        self._declare_cold_ads(families)
        self._declare_log(families)
        self._declare_events(families)
        self._declare_lineup(families)
        self._declare_shadows(families)

    def _declare_requests(self, families: Families) -> None:
        """Scoring requests, and their parts."""
        requests = families.counters(
            "msd_requests", "Scoring requests by status; 499 is a client that left.", "code", map(str, CODES)
        )
        self._requests = {int(code): counter for code, counter in requests.items()}
        self._request_seconds = families.histogram(
            "msd_request_seconds", "From the first byte read to the reply, of requests that were scored.", _SECONDS
        )
        self.stages = families.histograms(
            "msd_stage_seconds", "Parts of a scoring request.", "stage", STAGES, _STAGE_SECONDS
        )
        """By stage, in seconds."""
        self.candidates = families.histogram("msd_request_candidates", "Candidates a scored request.", _CANDIDATES)
        self.run_rows = families.histogram(
            "msd_run_rows", "Candidates a run of the model, of several requests where they go together.", _CANDIDATES
        )
        self._degraded = families.counters(
            "msd_degraded", "Candidates, and users, scored from less than their row.", "rung", RUNGS
        )
        self.sheds = families.counters(
            "msd_shed", "Requests that were not scored, by what there was too much of, or too little.", "reason", SHEDS
        )
        """By reason."""

    def _declare_entry(self, families: Families) -> None:
        """Who is let in, and what is ended."""
        self.keys_refused = families.counters(
            "msd_keys_refused",
            "Requests that were refused for their key, or for the lack of one.",
            "reason",
            KEY_REFUSALS,
        )
        """By reason."""
        self.keys_stale = families.gauge(
            "msd_keys_stale", "1 while the file of keys cannot be used, and those read before are.", "max"
        )
        self.partial = families.counter(
            "msd_partial", "Runs of the first candidates alone, because there was not the time for all."
        )
        self.tls_stale = families.gauge(
            "msd_tls_stale", "1 while certificate and key cannot be used, and those read before are.", "max"
        )
        self.closed = families.counters(
            "msd_connections_closed",
            "Connections that the service ended for what they did, or did not.",
            "reason",
            CLOSES,
        )
        """By reason."""

    def _declare_store(self, families: Families) -> None:
        """Rows, where they came from, and how their store fares."""
        self.store_errors = families.counter("msd_store_errors", "Reads that the row store failed.")
        self._damaged = families.counters(
            "msd_damaged_rows", "Rows read that were short or another bundle's.", "side", ("user", "item")
        )
        self.rows = families.counters("msd_rows", "Rows asked for, by where they were found.", "tier", TIERS)
        """By tier."""
        self.row_ages = families.histograms(
            "msd_row_age_seconds", "Since a row was written, of one row a read.", "side", ("user", "item"), _AGES
        )
        """By side."""
        self.stale_ages = families.histogram(
            "msd_stale_seconds", "Since rows were last sure to be Redis's own, of reads of stale rows.", _AGES
        )
        self.store_states = families.gauges(
            "msd_store_state", "Workers by how the Redis fares that they read from.", "state", STORE_STATES
        )
        """By state."""
        self.fills = families.gauges(
            "msd_fill_state", "Workers by how far they are with bringing rows near.", "state", FILLS
        )
        """By state."""
        self.arena_rows = families.gauges("msd_arena_rows", "Rows that workers hold.", "side", ("user", "item"))
        """By side."""

    def _declare_queue(self, families: Families) -> None:
        """Work, connections, and who does the work."""
        self.queued_rows = families.gauge("msd_queued_rows", "Candidates taken on and not yet scored.")
        self.queued_seconds = families.gauge(
            "msd_queued_seconds", "How long a worker alone would be expected to take for them."
        )
        self.at_work = families.gauge("msd_requests_at_work", "Requests being scored, or next to be.")
        self.shared = families.counters(
            "msd_shared_requests",
            "Requests that came while their worker was busy and were there for all, by who scored them in the end.",
            "by",
            SHARED,
        )
        """By who scored them."""
        self.connections = families.gauge("msd_connections", "Connections of clients.")
        self.ready = families.gauge("msd_ready", "1 when requests are answered.", "max")
        self.workers_ready = families.gauge("msd_workers_ready", "Workers that answer requests.")
        self.workers = families.gauge("msd_workers", "Workers that there should be.")
        self.restarts = families.counter("msd_worker_restarts", "Workers that ended unasked and were replaced.")

    def _declare_cold_ads(self, families: Families) -> None:
        """Texts of ads without a row."""
        self.cold_texts = families.counters(
            "msd_encoded", "Texts of ads without a row, by what came of them for their request.", "result", COLD_TEXTS
        )
        """By result."""
        self.encoder_waiting = families.gauge("msd_encoder_waiting", "Texts that wait to be encoded.")
        self.encoder_seconds = families.histogram(
            "msd_encoder_seconds", "Runs of the text encoder, of several texts each.", _STAGE_SECONDS
        )
        self.encoder_texts = families.counter("msd_encoder_texts", "Texts that the text encoder has encoded.")
        self.shelf_damaged = families.counter(
            "msd_encoded_damaged", "Vectors of texts in Redis that were short, changed, or another text's."
        )

    def _declare_log(self, families: Families) -> None:
        """Side processes, and what the request log tells."""
        self.side_restarts = families.counters(
            "msd_side_restarts", "Side processes that ended unasked and were replaced.", "process", SIDE_NAMES
        )
        """By process."""
        self.log_records = families.counters(
            "msd_log_records", "Sampled requests, by what became of them on the way to the log.", "result", LOGGED
        )
        """By result."""
        self.log_events = families.counters(
            "msd_log_events", "Events, by what became of them on the way to the log.", "result", (*LOGGED, "unsampled")
        )
        """By result."""
        self._input_psi = families.late_gauges(
            "msd_input_psi", "How far an input of late is from the bundle's reference.", "feature", _MOST_INPUTS
        )
        self._score_psi = families.late_gauges(
            "msd_score_psi", "How far scores of late are from the bundle's reference.", "head", _MOST_HEADS
        )
        self.predicted_over_observed = families.gauge(
            "msd_predicted_over_observed", "Predicted ÷ observed clicks of the latest joined impressions; 0: unknown."
        )
        self.joined_impressions = families.gauge(
            "msd_joined_impressions", "The latest impressions that were joined to logged scores."
        )
        self.joined_clicks = families.gauge("msd_joined_clicks", "How many of them were clicked.")
        self.log_bytes = families.gauge("msd_log_bytes", "What the request log's files take.")
        self.traces = families.counters(
            "msd_traces", "Traces of requests, by what became of them on the way to the collector.", "result", TRACES
        )
        """By result."""

    def _declare_events(self, families: Families) -> None:
        """Events told, and live states."""
        self.events = families.counters("msd_events", "Events told, by what became of them.", "outcome", EVENT_OUTCOMES)
        """By outcome."""
        self.events_noted = families.counters(
            "msd_events_noted",
            "Events told that came after a later one, that rows knew of, whose time was far ahead, or without a row.",
            "what",
            EVENT_NOTES,
        )
        """By what there is to note."""
        self.newest_event = families.gauge(
            "msd_newest_event_seconds", "When the newest event was, in unix seconds.", "max"
        )
        self.live_errors = families.counter("msd_live_errors", "Reads of live states that failed.")
        self.live_ages = families.histogram(
            "msd_live_age_seconds", "Age of the user's counts as the model was told, with live state.", _AGES
        )

    def _declare_lineup(self, families: Families) -> None:
        """What is served, and turning to it."""
        self.generation = families.gauge("msd_lineup_generation", "Of what is served: it rises with each swap.", "max")
        """Set by the supervisor alone: the moment that it is, all workers serve it."""
        self.rolling = families.cell()
        """A place in the supervisor's row: the generation that workers are loading, or 0."""
        self.swaps = families.counters(
            "msd_swaps", "Bundles and weights that were to be served, by what became of that.", "result", SWAPS
        )
        """By result."""
        self.refused = families.gauge("msd_bundle_refused", "1 while what is wanted is not what is served.", "max")
        arms = families.counters(
            "msd_arm_requests",
            "Requests scored by each arm, where there are several.",
            "slot",
            map(str, range(1, MAX_ARMS + 1)),
        )
        self.arms = {int(slot): counter for slot, counter in arms.items()}
        """By slot."""

    def _declare_shadows(self, families: Families) -> None:
        """Bundles that score what others serve, and what is served, by name."""
        self.shadows = families.counters(
            "msd_shadow_requests", "Requests for shadows, by what became of them.", "result", SHADOWED
        )
        """By result."""
        shifts = families.histograms(
            "msd_shadow_shift",
            "How far a shadow's pctr of a candidate is from the one served, in log-odds.",
            "slot",
            map(str, range(1, MAX_SHADOWS + 1)),
            _SHIFTS,
        )
        self.shadow_shifts = {int(slot): histogram for slot, histogram in shifts.items()}
        """By slot."""
        self._shares = self._info("msd_arm_share", "Share of the users that an arm scores.", _ARM_LABELS)
        self._bundles = self._info("msd_bundle_info", "1 for each bundle that is served.", _BUNDLE_LABELS)
        self._runtimes = self._info(
            "msd_runtime_info", "1 for what runs the model, as it was read back after loading.", _RUNTIME_LABELS
        )
        self.connections_ended = families.cell()
        """A place in each row: how many of the connections that the supervisor handed to the worker have ended."""

    @property
    def ready_place(self) -> int:
        """Where each row says whether its worker answers requests."""
        return self.workers_ready.place

    @property
    def of_supervisor(self) -> "memoryview[float]":
        """The row of numbers that the supervisor alone writes."""
        return self.families.numbers.rows[SUPERVISOR]

    @property
    def is_refused(self) -> bool:
        """Whether the supervisor says that what is wanted is not what is served."""
        return bool(self.of_supervisor[self.refused.place])

    def set_rolling(self, generation: int) -> None:
        """Says which generation is being loaded; 0 for none. The supervisor's to say."""
        self.of_supervisor[self.rolling] = generation

    def request(self, code: int, seconds: float) -> None:
        """Counts a scoring request that ended with `code`."""
        self._requests[code].inc()
        # Refusals are quick: among the others they would make a service look the faster, the worse it is.
        if code == 200:
            self._request_seconds.observe(seconds)

    def connection_ended(self) -> None:
        """Counts a connection that this worker has no more."""
        self.families.numbers.rows[self.row][self.connections_ended] += 1.0

    def is_ready(self, ready: bool) -> None:
        """Says whether this worker answers requests."""
        self.ready.set(ready)
        self.workers_ready.set(ready)

    def degraded(self, candidates: Iterable[Rung], user: UserRung | None) -> None:
        """Counts what a reply declares as degraded."""
        if user:
            self._degraded[f"user_{user}"].inc()
        for rung, count in Tally(candidates).items():
            self._degraded[rung].inc(count)

    def damaged(self, side: RowSide, count: int) -> None:
        """Counts rows that were not usable."""
        if count:
            self._damaged[side].inc(count)

    def serves(
        self, bundles: Iterable[Labels], engines: Iterable[Engine], shares: Iterable[tuple[Labels, float]]
    ) -> None:
        """Says which bundles are served - id, model version and kind of store of each -, what runs them, and which
        share of the users each arm has: slot, name and bundle id."""
        self._bundles[:] = [(labels, 1.0) for labels in bundles]
        self._runtimes[:] = [(_told(engine), 1.0) for engine in engines]
        self._shares[:] = shares

    def reference(self, manifest: Manifest) -> None:
        """Says whose drift is told: that of the champion's bundle, by what its reference has."""
        mark, reference = _mark_of(manifest.sha256), manifest.reference
        self._input_psi.know(mark, reference.inputs if reference else ())
        self._score_psi.know(mark, reference.scores if reference else ())

    def drift(self, manifest_sha256: str, inputs: Sequence[float], heads: Sequence[float]) -> None:
        """Says how far inputs and scores are from a bundle's reference, in its order."""
        mark = _mark_of(manifest_sha256)
        self._input_psi.set(mark, inputs)
        self._score_psi.set(mark, heads)

    def exposition(self) -> bytes:
        """All families in Prometheus's text format, whichever worker is asked."""
        return generate_latest(self._registry)

    def _info(self, name: str, text: str, labels: Labels) -> list[tuple[Labels, float]]:
        """The list of the values of its labels, each of which is told once, with a number."""
        values: list[tuple[Labels, float]] = []

        def tell() -> GaugeMetricFamily:
            family = GaugeMetricFamily(name, text, labels=labels)
            for one, value in dict(values).items():
                family.add_metric(one, value)
            return family

        self.families.tell(tell)
        return values


def _told(engine: Engine) -> Labels:
    """By the labels of `msd_runtime_info`."""
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


def _mark_of(manifest_sha256: str) -> int:
    """A number that stands for a bundle, and that a double holds."""
    return int(manifest_sha256[:12], 16) + 1
