"""Vectors of ads without a row whose request has a text: from memory or from the text encoder.

A request waits for them a bounded time, and is scored without those that are late.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress

import numpy as np
import structlog

from msd.contract.bundle import Bundle
from msd.contract.errors import MsdError
from msd.contract.rows import Rows
from native.layout import AskedRequest
from service import limits
from service.cold.encoding import EncodedText, Encoding, Vector, encode_texts, text_key
from service.cold.text_encoder import EncoderAway, Encoders, can_tokenise
from service.deployment.bundle_folder import is_bundle
from service.scoring.model import Model
from service.settings import Settings
from service.telemetry.metrics import Metrics

# Per request: all texts are read and hashed on the event loop, between other requests.
_MOST_TEXTS = 256
# Share of the time until the deadline; the rest is for the queue and the run.
_SHARE = 0.5


class ColdAdVectors:
    """Vectors of cold ads. For one event loop, between `open` and `close`."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._setting = settings.encoder
        self._results = metrics.cold_texts
        self._encoders = Encoders()
        self._encoding = Encoding(self._encoders, metrics, settings.encoder_per_s, limits.ENCODER_QUEUE)
        self._tasks: list[asyncio.Task[None]] = []

    def open(self, bundles: Collection[Bundle], loading: dict[str, str]) -> None:
        """Start encoding, and load the encoders of `bundles`; `loading` reports them until they are loaded."""
        loading["encoder"] = "texts of ads without a row are not read until it is loaded"
        tasks = (self._encoding.run(), self._load(bundles, loading))
        self._tasks = [asyncio.create_task(task) for task in tasks]

    def reads(self, model: Model) -> bool:
        """Return whether texts are encoded for a model. For any thread."""
        return encodes(self._setting, model.bundle)

    async def fill(self, model: Model, request: AskedRequest, items: Rows, deadline: float) -> Rows:
        """Return the rows, with vectors for candidates without a row whose text was encoded.

        `items` are those that the request wants, `deadline` is of `time.perf_counter`.
        """
        identity, texts = model.bundle.encoder_identity, request.texts
        if identity is None or not encodes(self._setting, model.bundle):
            return items
        keys = {
            place: text_key(identity, texts[item_id])
            for place, (item_id, is_found) in enumerate(zip(request.ids, items.found.tolist(), strict=False))
            if not is_found and item_id in texts
        }
        if not keys:
            return items
        by_key = {key: texts[request.ids[place]] for place, key in keys.items()}
        told = await self._ask(model.bundle, by_key, deadline)
        vectors = {key: encoded.vector for key, encoded in told.items() if encoded.vector is not None}
        places = [place for place, key in keys.items() if key in vectors]
        if not places:
            return items
        records = items.records.copy()
        stacked = np.stack([vectors[keys[place]] for place in places])
        records[places] = model.codecs["item"].encoded(stacked, records[places])
        return items._replace(records=records)

    async def vectors(self, bundle: Bundle, texts: Sequence[str], most: int) -> tuple[dict[str, Vector], set[str]]:
        """Return the vectors of texts that were encoded before, and the other texts. At most `most` of these are
        encoded from now on, within MSD_ENCODER_PER_S; ask for all of them again."""
        keys = {text: text_key(bundle.encoder_identity or "", text) for text in texts}
        told = await self._encoding.ask(bundle, {key: text for text, key in keys.items()}, 0.0, most)
        outcomes = {text: told[key] for text, key in keys.items()}
        late = {text for text, encoded in outcomes.items() if encoded.outcome in ("late", "dropped")}
        return {text: encoded.vector for text, encoded in outcomes.items() if encoded.vector is not None}, late

    async def encode_all(self, bundle: Bundle, texts: Sequence[str]) -> dict[str, Vector]:
        """Return the vectors of texts, encoded now, however many they are; those that cannot be are left out."""
        try:
            encoder = await self._encoders.get(bundle)
        except EncoderAway:  # the log has the reason
            return {}
        return await self._encoders.in_thread(encode_texts, encoder, list(dict.fromkeys(texts)))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._encoders.close()

    async def _ask(self, bundle: Bundle, texts: dict[bytes, str], deadline: float) -> dict[bytes, EncodedText]:
        wait_s = max(0.0, min(limits.ENCODER_WAIT_S, _SHARE * (deadline - time.perf_counter())))
        told = await self._encoding.ask(bundle, texts, wait_s, _MOST_TEXTS)
        for outcome, count in Counter(encoded.outcome for encoded in told.values()).items():
            self._results[outcome].inc(count)
        return told

    async def _load(self, bundles: Collection[Bundle], loading: dict[str, str]) -> None:
        try:
            for bundle in bundles:
                if encodes(self._setting, bundle):
                    # The log has the reason; texts that need this encoder fail.
                    with suppress(EncoderAway):
                        await self._encoders.get(bundle)
        finally:
            del loading["encoder"]


def encodes(setting: str, bundle: Bundle) -> bool:
    """Return whether texts are encoded for a bundle: with `auto` only if its export found a significant gain."""
    return bundle.encoder_identity is not None and (setting == "on" or (setting == "auto" and bundle.encoder_pays))


def open_cold_ads(settings: Settings, bundles: Collection[Bundle], metrics: Metrics) -> ColdAdVectors | None:
    """Return None if texts are not to be encoded, or cannot be.

    Raises MsdError if they must be and cannot. `bundles` are the first to be served; later ones may have an encoder
    even if these have none.
    """
    if settings.encoder == "off":
        return None
    is_asked = settings.encoder == "on"
    if not can_tokenise():
        if is_asked:
            raise MsdError("MSD_ENCODER=on needs tokenizers, which is not installed: pip install 'msd-ctr[encode]'")
        return None
    place = settings.bundle
    is_fixed = is_bundle(place) and not place.is_symlink()
    if is_asked and is_fixed and all(bundle.encoder_identity is None for bundle in bundles):
        raise MsdError(
            f"MSD_ENCODER=on, but {place} has no encoder that its manifest vouches for: export it again with a student,"
            " or set MSD_ENCODER=auto"
        )
    for bundle in bundles:
        if bundle.encoder_identity is not None and not encodes(settings.encoder, bundle):
            # Text is no better than features here, or was not measured.
            found = bundle.manifest.encoder and bundle.manifest.encoder.cold_ads
            because = f"{found or 'its export did not measure what it gains'}; MSD_ENCODER=on encodes texts"
            structlog.get_logger("msd.encoder").info("encoder_left_off", bundle=str(bundle.folder), because=because)
    if is_fixed and not settings.catalogue and not any(encodes(settings.encoder, bundle) for bundle in bundles):
        return None
    return ColdAdVectors(settings, metrics)
