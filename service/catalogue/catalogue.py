"""The live catalogue of a service: changes items, follows the changes of other services, and keeps the rows of every
loaded bundle current.

Knows no HTTP. Rows are made in other threads, a few at a time; texts are encoded where those of cold ads are.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from weakref import WeakKeyDictionary, WeakSet

import structlog

from msd.contract.errors import MsdError
from msd.contract.rows import Rows, has_semantic
from service.catalogue.item import CatalogueFull, Decide, Edit, Fate, Item, ItemStore
from service.catalogue.item_rows import Vectors
from service.catalogue.model_rows import ModelRows, Verdict
from service.cold.cold_ads import ColdAdVectors
from service.scoring.model import Model
from service.telemetry.metrics import Metrics

_EVERY_S, _SWEEP_S, _NOTE_S, _ENCODED_S = 0.2, 1.0, 60.0, 0.05
# Rows that are made at once. As many texts are asked for at once, so that those of requests wait behind few.
_TOGETHER = 50
# Another service, which took the item, encodes its text first.
_OTHERS_S = 2.0
Known = Mapping[str, Item | None]


class Catalogue:
    """Used on one event loop, between the start of `follow` and `close`."""

    def __init__(self, store: ItemStore, texts: ColdAdVectors | None, metrics: Metrics) -> None:
        self._store, self._texts, self._metrics = store, texts, metrics
        self._models: WeakSet[Model] = WeakSet()
        self._rows: WeakKeyDictionary[Model, ModelRows] = WeakKeyDictionary()
        # One at a time, so that no older row is written after a newer one.
        self._turn = asyncio.Lock()
        self._seen: int | None = None
        self._followed_at = time.monotonic()
        self._unencoded: WeakKeyDictionary[Model, dict[str, float]] = WeakKeyDictionary()
        """By ID, from when on its text is asked for."""
        self._log = structlog.get_logger("msd.catalogue")
        metrics.catalogue_behind.set_function(lambda: time.monotonic() - self._followed_at)
        metrics.catalogue_unencoded.set_function(lambda: sum(map(len, self._unencoded.values())))

    async def apply(self, edits: Sequence[Edit]) -> list[Fate]:
        """Make edits of distinct IDs; return their fates once all are durable, and rows by features are served here.
        Raises CatalogueError or CatalogueFull, and then no edit was made."""
        fates: list[Fate] = []
        changed: dict[str, Item | None] = {}

        def decide(held: Sequence[Item | None]) -> Mapping[str, Item | None]:
            now = time.time()
            made = [edit.of(item, now) for edit, item in zip(edits, held, strict=True)]
            fates[:] = [fate for _, fate in made]
            changed.clear()
            changed.update(
                {edit.id: new for edit, old, (new, _) in zip(edits, held, made, strict=True) if new is not old}
            )
            return changed

        ids = [edit.id for edit in edits]
        try:
            last = await self._edit(ids, decide)
        except CatalogueFull:
            self._metrics.catalogue_edits["full"].inc(len(ids))
            raise
        for fate, count in Counter(fates).items():
            self._metrics.catalogue_edits[fate].inc(count)
        try:
            await self._sync(list(changed), known=changed)
        except MsdError as error:  # the items are durable; they are followed as if they were another service's
            self._log.warning("catalogue_rows_late", reason=str(error))
            return fates
        if self._seen == last - len(changed):  # nothing of others is in between
            self._seen = last
        return fates

    async def _edit(self, ids: Sequence[str], decide: Decide) -> int:
        try:
            return await self._store.edit(ids, decide)
        except CatalogueFull:
            if not await self._make_room(len(ids)):
                raise
        return await self._store.edit(ids, decide)

    async def items(self, ids: Sequence[str]) -> list[Item | None]:
        return await self._store.items(ids)

    async def listed(self, after: int, most: int) -> list[tuple[int, Item]]:
        """Return items and numbers of their latest changes, in this order, behind a number."""
        found = await self._store.ordered("changed", after, most)
        items = await self._store.items([item_id for _, item_id in found])
        return [(int(number), item) for (number, _), item in zip(found, items, strict=True) if item is not None]

    async def waiting(self, most: int) -> list[str]:
        """Return the IDs of items that wait for knowledge, the oldest first."""
        return [item_id for _, item_id in await self._store.ordered("waiting", 0.0, most)]

    async def prepare(self, model: Model) -> None:
        """Make a model's rows of all items, before it serves. Raises MsdError if they cannot be made."""
        # Reads a file.
        self._rows[model] = await asyncio.to_thread(ModelRows, model)
        _, last = await self._store.size()
        number, count = 0.0, 0
        while found := await self._store.ordered("changed", number, _TOGETHER):
            number = found[-1][0]
            ids = [item_id for _, item_id in found]
            async with self._turn:
                await self._sync_model(model, ids, None)
            count += len(ids)
            await asyncio.sleep(0)
        self._models.add(model)
        if self._seen is None or self._seen > last:
            # What changes meanwhile is followed.
            self._seen = last
        self._log.info("catalogue_ready", bundle=model.bundle.bundle_id, items=count)

    async def try_prepare(self, model: Model) -> str | None:
        """As `prepare`; if that fails, return why after a while."""
        try:
            await self.prepare(model)
        except MsdError as error:
            await self._failed(error)
            return str(error)
        return None

    async def follow(self) -> None:
        """Follow other services' changes, and expire items, until cancelled."""
        swept = noted = 0.0
        while True:
            try:
                await self._follow_changes()
                if (now := time.monotonic()) > swept + _SWEEP_S:
                    swept = now
                    await self._sweep()
                if now > noted + _NOTE_S:
                    noted = now
                    await self._store.keep_rows_of(sorted({model.bundle.bundle_id for model in self._models}))
            except Exception as error:
                await self._failed(error)
            await asyncio.sleep(_EVERY_S)

    async def encode(self) -> None:
        """Have texts encoded, and make the rows of their items anew, until cancelled."""
        while True:
            try:
                for model, ids in list(self._unencoded.items()):
                    await self._encode_some(model, ids)
            except Exception as error:
                await self._failed(error)
            await asyncio.sleep(_ENCODED_S)

    async def close(self) -> None:
        await self._store.close()

    async def _failed(self, error: Exception) -> None:
        trace = None if isinstance(error, MsdError) else error
        self._log.warning("catalogue_not_followed", reason=str(error), exc_info=trace)
        await asyncio.sleep(_SWEEP_S)

    async def _follow_changes(self) -> None:
        count, last = await self._store.size()
        self._metrics.catalogue_items.set(count)
        if self._seen is not None and self._seen > last:  # the store has begun anew
            self._seen = last
        while self._seen is not None and self._seen < last:
            found = await self._store.ordered("changed", self._seen, _TOGETHER)
            if not found:
                self._seen = last
                break
            await self._sync([item_id for _, item_id in found], _OTHERS_S)
            # Whatever numbers a store has, each turn moves it.
            self._seen = max(self._seen + 1, int(min(found[-1][0], last)))
        self._followed_at = time.monotonic()

    async def _sweep(self) -> None:
        """Expire items, and forget removals and damaged items, that are due."""
        now, before = time.time(), None
        while due := [item_id for at, item_id in await self._store.ordered("due", 0.0, _TOGETHER) if at <= now]:
            if due == before:  # what a store says of them cannot be changed
                break
            before = due

            def decide(held: Sequence[Item | None], due: Sequence[str] = due) -> Mapping[str, Item | None]:
                left = [item and item.lapsed(now) for item in held]
                changes = zip(due, held, left, strict=True)
                return {item_id: new for item_id, old, new in changes if old is None or new is not old}

            await self._store.edit(due, decide)
            await self._sync(due, _OTHERS_S)

    async def _make_room(self, count: int) -> bool:
        """Forget the oldest removals; return whether there were any."""
        gone = [item_id for _, item_id in await self._store.ordered("gone", 0.0, count)]
        if not gone:
            return False
        await self._store.edit(gone, lambda held: {item.id: None for item in held if item and item.removed_at})
        await self._sync(gone, _OTHERS_S)
        return True

    async def _encode_some(self, model: Model, ids: dict[str, float]) -> None:
        now = time.monotonic()
        if due := list(islice((item_id for item_id, at in ids.items() if at <= now), _TOGETHER)):
            async with self._turn:
                late = await self._sync_model(model, due, _TOGETHER)
            for item_id in set(due) - late:
                ids.pop(item_id, None)

    async def _sync(self, ids: Sequence[str], patience_s: float = 0.0, known: Known | None = None) -> None:
        """Make rows of changed items for every loaded bundle. Texts are asked for after some time. `known`: the items
        as they were changed here. If others have changed them since, that is followed."""
        for model in list(self._models):
            async with self._turn:
                late = await self._sync_model(model, ids, 0, known)
            self._unencoded.setdefault(model, {}).update(dict.fromkeys(late, time.monotonic() + patience_s))

    async def _sync_model(
        self, model: Model, ids: Sequence[str], most: int | None, known: Known | None = None
    ) -> set[str]:
        """Have a model's rows of some items current; return those that lack a vector, which comes later. `most`: the
        most texts to be encoded; None: wait until all are."""
        kept: dict[str, bytes | None] = {}
        late: set[str] = set()
        for start in range(0, len(ids), _TOGETHER):
            some = ids[start : start + _TOGETHER]
            items = await self._store.items(some) if known is None else [known[item_id] for item_id in some]
            late |= await self._sync_some(model, some, items, most, kept)
            await asyncio.sleep(0)
        if kept:
            await self._store.put_rows(model.bundle.bundle_id, kept)
        return late

    async def _sync_some(
        self,
        model: Model,
        ids: Sequence[str],
        items: Sequence[Item | None],
        most: int | None,
        kept: dict[str, bytes | None],
    ) -> set[str]:
        """As `_sync_model`; `kept` gets the rows to keep."""
        rows, raw = self._rows[model], await self._store.rows(model.bundle.bundle_id, ids)
        own = rows.codec.unpack(raw)
        exported = rows.exported(ids, own)
        verdict = rows.judge(items, own, exported)
        texts = self._lacking(model, rows, verdict, items, own)
        vectors, late = await self._vectors(model, list(texts.values()), most)
        # Rows that are current are made again for a vector alone.
        again = {place for place, text in texts.items() if place in verdict.current and text in vectors}
        verdict = verdict._replace(
            current=[place for place in verdict.current if place not in again], due=[*verdict.due, *again]
        )
        described = [item for place in verdict.due if (item := items[place]) is not None]
        of_due = Rows(exported.records[verdict.due], exported.found[verdict.due], (), 0)
        # Long knowledge takes milliseconds an item.
        made = await asyncio.to_thread(rows.make, described, of_due, vectors)
        kept |= {ids[place]: None for place in verdict.hidden if raw[place] is not None}
        kept |= {item.id: row.tobytes() for item, row in zip(described, made, strict=True)}
        rows.serve(ids, verdict, own, made)
        return {ids[place] for place, text in texts.items() if text in late}

    def _lacking(
        self, model: Model, rows: ModelRows, verdict: Verdict, items: Sequence[Item | None], own: Rows
    ) -> dict[int, str]:
        """Return the texts that are to be encoded, by their items' places."""
        if self._texts is None:
            return {}
        reads, has = self._texts.reads(model), has_semantic(own.records)
        current = [place for place in verdict.current if not has[place]]
        return {
            place: item.text
            for place in (*current, *verdict.due)
            if (item := items[place]) is not None and item.text and (reads or rows.reads_words(item))
        }

    async def _vectors(self, model: Model, texts: Sequence[str], most: int | None) -> tuple[Vectors, Collection[str]]:
        """Return the vectors of texts, and those that come later."""
        if self._texts is None or not texts:
            return {}, ()
        if most is None:
            return await self._texts.encode_all(model.bundle, texts), ()
        return await self._texts.vectors(model.bundle, texts, most)
