"""A loaded bundle: its runtime, row store and everything else of this bundle; and corrections of scores.

Rows and runtime always belong to the same bundle. Does not know which users it scores, nor its quality.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, assert_never

from msd.contract.bundle import Bundle
from msd.contract.correction import LearnedCorrection, read_corrections
from msd.contract.rows import ROW_SIDES, RowCodec, RowSide
from msd.contract.schema import FeatureSchema
from native import core
from native.layout import core_model, core_openrtb, core_schema, new_desk
from service.rows.store import BundleFileStore, CoreRows, RowStore
from service.runtimes.choice import open_runtime
from service.runtimes.runtime import Engine, Runtime
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.watched_files import WatchedFiles

ModelKey = tuple[str, bool]
"""A bundle's identity, and whether it is loaded for a shadow."""


class CoreModel(NamedTuple):
    """A model in the native core's form."""

    schema: "core.Schema"
    served: "core.ServedModel"
    rows: CoreRows | None
    """Rows in memory; None if there are none."""
    frames: threading.local
    """Thread-local buffers, made by `frames`."""
    loaded: "core.LoadedModel"
    """What scoring threads run, in buffers of their own."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Model:
    """A loaded bundle. `schema` checks its requests, `version` appears in its replies."""

    bundle: Bundle
    schema: FeatureSchema
    version: str
    runtime: Runtime
    store: RowStore
    codecs: Mapping[RowSide, RowCodec]
    native: CoreModel

    @property
    def identity(self) -> str:
        """The manifest's hash: rows may change under one bundle_id."""
        return self.bundle.manifest.sha256

    @property
    def engine(self) -> Engine:
        return self.runtime.engine


def load_model(bundle: Bundle, settings: Settings, metrics: Metrics) -> Model:
    """Load a verified bundle. Raises MsdError if runtime or rows file are invalid."""
    runtime = open_runtime(bundle, settings)
    schema, manifest, capacity = bundle.schema, bundle.manifest, settings.max_candidates
    codecs = {side: RowCodec(schema, side, bundle.bundle_id) for side in ROW_SIDES}
    store = _open_store(bundle, settings, metrics)
    form, rows, heads = core_schema(schema, codecs), store.core_rows(), tuple(manifest.heads)
    served = core_model(manifest.model_version, manifest.formula, settings.explore_share, manifest.uncertainty)
    desk = partial(new_desk, schema, form, served, runtime.run if runtime.native is None else None, heads, capacity)
    openrtb = None if manifest.openrtb is None else core_openrtb(manifest.openrtb)
    loaded = core.LoadedModel(
        schema=form,
        runner=core.Runner(),
        heads=heads,
        ort=runtime.native,
        users=rows and rows.users,
        items=rows and rows.items,
        new_desk=desk,
        capacity=capacity,
        openrtb=openrtb,
    )
    own = CoreModel(form, served, rows, threading.local(), loaded)
    return Model(bundle, schema, manifest.model_version, runtime, store, codecs, own)


def _open_store(bundle: Bundle, settings: Settings, metrics: Metrics) -> RowStore:
    match settings.store:
        case "file":
            return BundleFileStore(bundle, metrics, settings.catalogue_items if settings.catalogue else 0)
        case "redis":
            from service.rows.redis_rows import RedisStore

            assert settings.redis_url is not None, "settings with a Redis store have its address"
            url, timeout_s = settings.redis_url.get_secret_value(), settings.store_timeout_ms / 1000
            return RedisStore(bundle, url, timeout_s, settings.cache_mb * 2**20, metrics)
        case other:
            assert_never(other)


Corrections = WatchedFiles[dict[str, LearnedCorrection]]
"""Current corrections of calibration by bundle_id: another bundle's graph has another calibration, and starts
without."""


def open_corrections(path: Path | None, metrics: Metrics) -> Corrections | None:
    """Return the corrections in a file that `msd recalibrate` writes; None without one. Raises CorrectionError if it
    exists and is invalid."""
    if path is None:
        return None

    def read() -> dict[str, LearnedCorrection]:
        found = read_corrections(path)
        metrics.corrected(found)
        return found

    return WatchedFiles("corrections", [path], read, metrics.corrections_stale, metrics.watched_ages["corrections"])
