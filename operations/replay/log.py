"""`msd replay LOG`: scores logged requests again, on the path that requests take, and compares the bits."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TextColumn

from msd.contract.bundle import Bundle
from msd.contract.correction import Correction, CorrectionError
from msd.contract.errors import ContractError, MsdError
from msd.contract.log import RequestRecord
from msd.contract.precision import RUNTIMES
from msd.contract.request import RequestError, parse_request
from msd.contract.rows import ROW_SIDES, RowCodec, Rows
from msd.contract.state import Impression
from native.layout import core_model, core_schema, given_once
from native.offline import OfflineScorer, Scored
from service.request_log.files import log_files, read_requests
from service.runtimes.choice import open_runtime
from service.runtimes.runtime import Runtime, Scores
from service.scoring.answer import Basis
from service.settings import Settings
from service.trust import Trust

_SHOWN = 10
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class LogError(ContractError):
    """A record is invalid, or belongs to another bundle."""


@dataclass(slots=True)
class ReplaySummary:
    """Result of a replay. `exact` were compared to the bit, `near` by the tolerances, for the reasons in `unlike`."""

    requests: int = 0
    candidates: int = 0
    exact: int = 0
    near: int = 0
    mismatches: int = 0
    max_abs_diff: float = 0.0
    skipped: dict[str, int] = field(default_factory=dict)
    """Requests of other bundles, by bundle ID."""
    unlike: dict[str, int] = field(default_factory=dict)
    differences: list[tuple[str, str]] = field(default_factory=list)
    """The first mismatches: request ID, and what differs."""

    def __str__(self) -> str:
        lines = [
            f"{self.requests} requests, {self.candidates} candidates: {self.exact} compared to the bit, {self.near} by"
            f" the tolerances; {self.mismatches} differ (scores by {self.max_abs_diff:.1e} at most)"
        ]
        lines += [f"by the tolerances, {count}: {reason}" for reason, count in self.unlike.items()]
        for bundle_id, count in self.skipped.items():
            lines.append(f"left out, {count}: of bundle {bundle_id}; give its folder by --bundle")
        lines += [f"differs: request {request_id}: {difference}" for request_id, difference in self.differences]
        return "\n".join(lines)


class LogReplay:
    """A replay with given bundles, whose runtimes are opened on demand, as they were when logged."""

    def __init__(self, bundles: Sequence[Bundle], runtime: str = "as logged") -> None:
        """`runtime` overrides the records."""
        self._bundles = {bundle.bundle_id: bundle for bundle in bundles}
        self._codecs = {
            bundle.bundle_id: [RowCodec(bundle.schema, side, bundle.bundle_id) for side in ROW_SIDES]
            for bundle in bundles
        }
        self._runtime = runtime
        self._runtimes: dict[tuple[str, str, int], Runtime] = {}
        self._scorers: dict[tuple[str, int, float, int], OfflineScorer] = {}
        self.found = ReplaySummary()

    def replay(
        self, records: Iterable[RequestRecord], progress: Callable[[], None], limit: int | None = None
    ) -> ReplaySummary:
        """Replay records, at most `limit` of these bundles. Raises MsdError if one cannot be scored: it is damaged, or
        no runtime is available."""
        found = self.found
        for record in records:
            if found.requests == limit:
                break
            progress()
            bundle = self._bundles.get(record.bundle_id)
            if bundle is None:
                found.skipped[record.bundle_id] = found.skipped.get(record.bundle_id, 0) + 1
                continue
            try:
                self._compare(bundle, record)
            except (LogError, RequestError, CorrectionError) as error:
                raise LogError(f"request {record.request_id}: {error}") from None
        return found

    def _compare(self, bundle: Bundle, record: RequestRecord) -> None:
        found, runtime = self.found, self._opened(bundle, record)
        scored = self._score(bundle, runtime, record)
        scores, rungs = scored.scores, [scored.rungs.get(item_id) for item_id in record.item_ids]
        choice = None if scored.choice is None else scored.choice.as_record()
        difference = _greatest_difference(record, scores)
        reason = _unlike(record, runtime)
        found.requests += 1
        found.candidates += len(record.item_ids)
        found.max_abs_diff = float(np.maximum(found.max_abs_diff, difference))
        if reason is None:
            found.exact += 1
            is_same = all(
                old.tobytes() == scores[head].tobytes() for head, old in zip(record.heads, record.scores, strict=True)
            )
        else:
            found.near += 1
            found.unlike[reason] = found.unlike.get(reason, 0) + 1
            is_same = difference <= _tolerance(bundle, record, runtime)
        if scored.at != record.at:
            self._differs(record, f"its request is of {scored.at:.3f}, the record of {record.at:.3f} (Unix s)")
        elif rungs != (record.rungs or [None] * len(record.item_ids)):
            self._differs(record, "other candidates are degraded, or otherwise")
        elif not is_same:
            self._differs(record, f"scores differ by {difference:.3g}")
        elif reason is None and choice != record.explore:
            self._differs(record, f"explores {choice}, not {record.explore}")

    def _differs(self, record: RequestRecord, what: str) -> None:
        self.found.mismatches += 1
        if len(self.found.differences) < _SHOWN:
            self.found.differences.append((record.request_id, what))

    def _score(self, bundle: Bundle, runtime: Runtime, record: RequestRecord) -> Scored:
        """Score a record's request as services do, from the rows that it was scored from. Raises LogError, or the
        RequestError of a request that is refused."""
        basis = basis_of(record, *self._codecs[bundle.bundle_id])
        try:
            return self._scorer(bundle, runtime, record).score(
                record.request,
                record.request_id,
                given=(basis.at, basis.user, given_once(record.item_ids, basis.items)),
                corrections=Correction.of(record.correction).lines if record.correction is not None else (),
                most=len(set(record.item_ids[: basis.ran])) if basis.is_partial else 0,
            )
        except ValueError as error:
            parse_request(record.request, bundle.schema, max(1, len(record.item_ids)))
            raise LogError(str(error)) from error

    def _scorer(self, bundle: Bundle, runtime: Runtime, record: RequestRecord) -> OfflineScorer:
        """Return the scorer of a bundle and runtime, with the share of exploration, and room for the candidates."""
        share = (record.explore or {}).get("share") or 1.0
        capacity = 1 << max(1, len(record.item_ids)).bit_length()
        key = bundle.bundle_id, id(runtime), share, capacity
        if key not in self._scorers:
            manifest, schema = bundle.manifest, bundle.schema
            form = core_schema(schema, dict(zip(ROW_SIDES, self._codecs[bundle.bundle_id], strict=True)))
            served = core_model(manifest.model_version, manifest.formula, share, manifest.uncertainty)
            model = form, served, manifest.heads, runtime.native, runtime.run
            self._scorers[key] = OfflineScorer(schema, *model, capacity)
        return self._scorers[key]

    def _opened(self, bundle: Bundle, record: RequestRecord) -> Runtime:
        """Return the record's runtime, or the requested one. Raises RuntimeRefused if it is unavailable."""
        name, provider, logged = record.engine.split("-", 2)
        precision = next((one for one in RUNTIMES if one == logged), None)
        if self._runtime != "as logged":
            name, provider, precision = self._runtime, "cpu", None
        wanted = (bundle.bundle_id, f"{name}-{provider}-{precision}", record.threads)
        if wanted not in self._runtimes:
            given = {"bundle": bundle.folder, "runtime": name, "provider": provider, "threads": record.threads}
            self._runtimes[wanted] = open_runtime(bundle, Settings.model_validate(given), precision)
        return self._runtimes[wanted]


def replay_log(
    path: Path, bundles: Sequence[Bundle], runtime: str, limit: int | None, progress: Callable[[], None]
) -> ReplaySummary:
    """Replay the log's requests, oldest first, at most `limit` of them. Raises MsdError if there are none."""
    records = (record for file in log_files(path) for record in read_requests(file))
    found = LogReplay(bundles, runtime).replay(records, progress, limit)
    if not found.requests:
        others = ", ".join(found.skipped)
        raise MsdError(f"{path}: holds no request of these bundles" + (f", but of {others}" if others else ""))
    return found


def _unlike(record: RequestRecord, runtime: Runtime) -> str | None:
    """Return why bits may differ; None if they must be equal."""
    if record.is_shared:
        return "a run with candidates of other impressions"
    engine = runtime.engine
    pairs = {
        "runtime": (record.engine, engine.key),
        "runtime's version": (record.runtime_version, engine.version),
        "processor": (record.instructions, " ".join(engine.instructions)),
        "number of threads": (str(record.threads), str(engine.threads)),
    }
    for what, (then, now) in pairs.items():
        if then != now:
            return f"another {what}: {then or 'none'} then, {now or 'none'} now"
    return None


def _tolerance(bundle: Bundle, record: RequestRecord, runtime: Runtime) -> float:
    """Return the tolerance between two runs: each may differ from the model's scores by its own tolerance."""
    tolerances = bundle.manifest.tolerances
    return tolerances.get(record.engine, 0.0) + tolerances.get(runtime.engine.key, 0.0)


def _greatest_difference(record: RequestRecord, scores: Scores) -> float:
    """Return the largest difference: infinite if heads or candidates differ, NaN if a score is."""
    if list(scores) != record.heads or list(map(len, scores.values())) != list(map(len, record.scores)):
        return float("inf")
    differences = [
        np.abs(old - scores[head]).max(initial=0.0) for head, old in zip(record.heads, record.scores, strict=True)
    ]
    return float(np.max(differences, initial=0.0))


@app.command("replay")
def main(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="A service's MSD_LOG_DIR, or one of its files.")],
    bundle: Annotated[list[Path], typer.Option(metavar="DIR", help="The bundle that was served; repeatable.")],
    runtime: Annotated[
        str, typer.Option(help="Model runtime: 'as logged', auto, onnxruntime or openvino.")
    ] = "as logged",
    limit: Annotated[int | None, typer.Option(min=1, help="Number of requests, oldest first.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Score the requests of a service's log again, from the rows that they were scored from, and compare the scores.

    To the bit on the same processor and runtime, else within the manifest's tolerances. Exit status 1 if any differs.
    """
    trust = Trust.from_environ(os.environ)
    bundles = [trust.open(folder, rows=False) for folder in bundle]
    with Progress(TextColumn("{task.description}, {task.completed}"), console=Console(stderr=True)) as bars:
        bar = bars.add_task("Replaying", total=None)
        found = replay_log(log, bundles, runtime, limit, lambda: bars.advance(bar))
    typer.echo(json.dumps(asdict(found)) if as_json else str(found))
    if found.mismatches:
        raise typer.Exit(1)


def basis_of(record: RequestRecord, users: RowCodec, items: RowCodec) -> Basis:
    """Return a request's inputs, decoded by its own bundle. Raises LogError if the rows belong to another."""
    user = Rows(
        _records(record.user_row, users, 1),
        np.array([record.user_found]),
        (_impressions(record),),
        0,
        None if record.user_stale is None else np.array([record.user_stale]),
    )
    found = np.frombuffer(record.items_found, np.bool_)
    stale = None if record.items_stale is None else np.frombuffer(record.items_stale, np.bool_)
    count = len(record.item_ids) + len(record.history)
    if len(found) != count or (stale is not None and len(stale) != count):
        raise LogError(f"request {record.request_id}: {len(found)} rows are marked, expected {count}")
    rows = Rows(_records(record.item_rows, items, count), found, (), 0, stale)
    return Basis(record.at, user, rows, record.ran, record.is_partial, record.is_shared)


def _impressions(record: RequestRecord) -> tuple[Impression, ...]:
    numbers = record.impressions or []
    columns = numbers[::3], numbers[1::3], numbers[2::3]
    if any(len(column) != len(record.history) for column in columns):
        raise LogError(f"request {record.request_id}: {len(numbers)} numbers for {len(record.history)} impressions")
    return tuple(
        Impression(at, item_id, shown, clicked)
        for item_id, at, shown, clicked in zip(record.history, *columns, strict=True)
    )


def _records(data: bytes, codec: RowCodec, count: int) -> NDArray[np.void]:
    if len(data) != count * codec.dtype.itemsize:
        raise LogError(
            f"{len(data)} bytes of {codec.side} rows where {count} of {codec.dtype.itemsize} are due: another bundle's"
        )
    records = np.frombuffer(bytearray(data), codec.dtype)
    if not codec.is_usable(records).all():
        raise LogError(f"a row of the {codec.side} side is not this bundle's, or holds non-finite values")
    return records
