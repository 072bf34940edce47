"""A loaded bundle's rows of the live catalogue's items: which are current, what the others are, and where they serve.

Of an item that the export knows too, the catalogue's description counts if it was given after the data of the export's
row ended (`as_of`); its counts are then still the export's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from msd.contract.encode import canonical
from msd.contract.errors import SchemaError
from msd.contract.rows import Records, RowCodec, Rows
from msd.contract.schema import FeatureSchema
from msd.contract.words import join_words
from service.catalogue.item import Item, Knowledge
from service.catalogue.item_rows import ID, KNOWLEDGE, TEXT, ItemRows, Vectors
from service.scoring.model import Model


class Verdict(NamedTuple):
    """Of IDs [n], by place: whose row is current; whose is to be made; who is unknown; for whom the export's counts."""

    current: list[int]
    due: list[int]
    hidden: list[int]
    left: list[int]


class ModelRows:
    """Rows of one model."""

    def __init__(self, model: Model) -> None:
        self.codec: RowCodec = model.codecs["item"]
        self._store, self._schema = model.store, model.schema
        self._made_by = ItemRows(model.bundle)

    def reads_words(self, item: Item) -> bool:
        """Return whether an item has knowledge that the model reads."""
        return item.knowledge is not None and self._made_by.reads_words

    def exported(self, ids: Sequence[str], own: Rows) -> Rows:
        """Return the export's rows; those that are kept with the items', if they are kept together."""
        found = self._store.exported(ids)
        return own if found is None else found

    def judge(self, items: Sequence[Item | None], own: Rows, exported: Rows) -> Verdict:
        """`own`: the rows that are kept of the items."""
        verdict = Verdict([], [], [], [])
        as_of, written_at = exported.records["as_of"].tolist(), own.records["written_at"].tolist()
        for place, item in enumerate(items):
            if item is None or (exported.found[place] and as_of[place] >= item.changed_at):
                verdict.left.append(place)
            elif item.removed_at is not None:
                verdict.hidden.append(place)
            elif own.found[place] and written_at[place] == item.changed_at:
                verdict.current.append(place)
            else:
                verdict.due.append(place)
        return verdict

    def make(self, items: Sequence[Item], exported: Rows, vectors: Vectors) -> Records:
        """Return rows [n] of items, with the counts that the export's [n] have. What the schema does not take is
        missing: another bundle may have taken it."""
        columns: dict[str, list[Any]] = {ID: [item.id for item in items], TEXT: [item.text for item in items]}
        columns[KNOWLEDGE] = [_words(item.knowledge) for item in items]
        columns |= {
            name: [fitting(self._schema, name, item.features) for item in items] for name in self._made_by.features
        }
        # A row that is complete up to no time is the catalogue's own, of an item that was never exported. The ID of
        # such an item is missing: that is what training has covered (decision 2).
        is_exported = exported.found & (exported.records["as_of"] > 0)
        _, contents, taught = self._made_by.contents(columns, vectors, is_exported.tolist())
        counts = {
            name: np.where(is_exported, exported.records[name], 0.0) for name in ("impressions", "clicks", "as_of")
        }
        contents = contents._replace(**counts, described=~(is_exported | taught))
        return self.codec.pack(contents, np.array([item.changed_at for item in items]))

    def serve(self, ids: Sequence[str], verdict: Verdict, own: Rows, made: Records) -> None:
        """Serve the current rows, and those that were made of the due ones [d]."""
        records = own.records.copy()
        records[verdict.due] = made
        places = [*verdict.current, *verdict.due]
        found = np.ones(len(places), bool)
        self._store.replace([ids[place] for place in places], Rows(records[places], found, (), 0))
        nothing = self.codec.unpack([None] * len(verdict.hidden))
        self._store.replace([ids[place] for place in verdict.hidden], nothing)
        self._store.restore([ids[place] for place in verdict.left])


def _words(knowledge: Knowledge | None) -> str:
    return "" if knowledge is None else join_words(knowledge.explicit, knowledge.tags, knowledge.implicit)


def fitting(schema: FeatureSchema, name: str, features: Mapping[str, Any]) -> object:
    """Return a feature's value, None if it has none that the schema takes."""
    try:
        return canonical(schema.settable["item"][name], features.get(name))
    except SchemaError:
        return None
