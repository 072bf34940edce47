"""Scores what a service has logged once more, by the very way that requests take, and compares to the bit.

Knows records, bundles and runtimes. Does not know how it is asked, nor how it tells.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from msd.contract.assemble import assemble, cut
from msd.contract.bundle import Bundle
from msd.contract.errors import MsdError
from msd.contract.log import LogError, RequestRecord, basis_of
from msd.contract.request import RequestError, parse_request
from msd.contract.rows import RowCodec
from service.request_log.parquet import log_files, read_requests
from service.runtimes.choice import open_runtime
from service.runtimes.runtime import Runtime, Scores
from service.scoring.reply import declared, spread
from service.settings import Settings

_SHOWN = 10


class Difference(NamedTuple):
    """A request that did not give again what was logged, and how."""

    request_id: str
    what: str


@dataclass(slots=True)
class Replayed:
    """What a replay found. `exact` were compared to the bit, `near` by the tolerances, for the reasons in `unlike`."""

    requests: int = 0
    candidates: int = 0
    exact: int = 0
    near: int = 0
    mismatches: int = 0
    max_abs_diff: float = 0.0
    skipped: dict[str, int] = field(default_factory=dict)
    """Requests of bundles that were not given, by their ids."""
    unlike: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    """The first of the mismatches."""


class LogReplay:
    """A replay by some bundles, whose runtimes are opened as they are needed, each as it was when it was logged."""

    def __init__(self, bundles: Sequence[Bundle], runtime: str = "as logged") -> None:
        """`runtime` goes before what the records say."""
        self._bundles = {bundle.bundle_id: bundle for bundle in bundles}
        self._codecs = {
            bundle.bundle_id: (
                RowCodec(bundle.schema, "user", bundle.bundle_id),
                RowCodec(bundle.schema, "item", bundle.bundle_id),
            )
            for bundle in bundles
        }
        self._runtime = runtime
        self._runtimes: dict[tuple[str, str, int], Runtime] = {}
        self.found = Replayed()

    def replay(self, records: Iterable[RequestRecord], progress: Callable[[], None]) -> Replayed:
        """Replays records. Raises MsdError when one cannot be scored at all: it was damaged, or no runtime is to be
        had."""
        found = self.found
        for record in records:
            progress()
            bundle = self._bundles.get(record.bundle_id)
            if bundle is None:
                found.skipped[record.bundle_id] = found.skipped.get(record.bundle_id, 0) + 1
                continue
            try:
                self._compare(bundle, record)
            except (LogError, RequestError) as error:
                raise LogError(f"request {record.request_id}: {error}") from None
        return found

    def _compare(self, bundle: Bundle, record: RequestRecord) -> None:
        found, runtime = self.found, self._opened(bundle, record)
        scores, rungs = self._score(bundle, runtime, record)
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
        if rungs != (record.rungs or [None] * len(record.item_ids)):
            self._differs(record, "other candidates are degraded, or otherwise")
        elif not is_same:
            self._differs(record, f"scores differ by {difference:.3g}")

    def _differs(self, record: RequestRecord, what: str) -> None:
        self.found.mismatches += 1
        if len(self.found.differences) < _SHOWN:
            self.found.differences.append(Difference(record.request_id, what))

    def _score(self, bundle: Bundle, runtime: Runtime, record: RequestRecord) -> tuple[Scores, list[str | None]]:
        """Scores [N] by head, and what each candidate was scored from where that is not its fresh row."""
        users, items = self._codecs[bundle.bundle_id]
        basis = basis_of(record, users, items)
        request = parse_request(record.request, bundle.schema, max(1, len(record.item_ids)))
        assembled = assemble(bundle.schema, request, basis.at, basis.user, basis.items)
        tensors, degraded = assembled.tensors, assembled.degraded_candidates
        if basis.is_partial:
            nothing = items.unpack([None]).records
            ran = runtime.run(cut(bundle.schema, tensors, basis.ran, nothing, basis.at))
            scores, degraded = spread(ran, request.ids), declared(ran, request.ids, degraded)
        else:
            scores = runtime.run(tensors)
        return scores, [degraded.get(one) for one in request.ids]

    def _opened(self, bundle: Bundle, record: RequestRecord) -> Runtime:
        """The runtime that the record names, or the one asked for. Raises RuntimeRefused where it is not to be had."""
        name, provider, _ = record.engine.split("-", 2)
        wanted = (bundle.bundle_id, f"{name}-{provider}" if self._runtime == "as logged" else "", record.threads)
        if wanted not in self._runtimes:
            settings = Settings.model_validate(
                {
                    "bundle": bundle.folder,
                    "runtime": name if self._runtime == "as logged" else self._runtime,
                    "provider": provider if self._runtime == "as logged" else "cpu",
                    "threads": record.threads,
                }
            )
            self._runtimes[wanted] = open_runtime(bundle, settings)
        return self._runtimes[wanted]


def replay_log(
    path: Path, bundles: Sequence[Bundle], runtime: str, limit: int | None, progress: Callable[[], None]
) -> Replayed:
    """Replays the log's requests, oldest first, at most `limit` of them. Raises MsdError when there are none."""
    replay = LogReplay(bundles, runtime)
    for file in log_files(path):
        left = None if limit is None else limit - replay.found.requests
        if left == 0:
            break
        replay.replay((one for one, _ in zip(read_requests(file), _count(left), strict=False)), progress)
    if not replay.found.requests:
        others = ", ".join(replay.found.skipped)
        raise MsdError(f"{path}: holds no request of these bundles" + (f", but of {others}" if others else ""))
    return replay.found


def _count(limit: int | None) -> Iterable[int]:
    return range(2**62 if limit is None else limit)


def _unlike(record: RequestRecord, runtime: Runtime) -> str | None:
    """Why bits need not be the same; None where they have to be."""
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
    return "scored together with other requests" if record.together > 1 else None


def _tolerance(bundle: Bundle, record: RequestRecord, runtime: Runtime) -> float:
    """Both may be so far from the model's own scores: the one that was logged, and the one of now."""
    tolerances = bundle.manifest.tolerances
    return tolerances.get(record.engine, 0.0) + tolerances.get(runtime.engine.key, 0.0)


def _greatest_difference(record: RequestRecord, scores: Scores) -> float:
    """Infinite where heads or candidates are others, NaN where a score is."""
    if list(scores) != record.heads:
        return float("inf")
    differences = [0.0]
    for head, old in zip(record.heads, record.scores, strict=True):
        if len(old) != len(scores[head]):
            return float("inf")
        differences.append(float(np.abs(old - scores[head]).max(initial=0.0)))
    return float(np.max(differences))
