"""Describes a bundle to the native core: its schema, row layout and tensor buffers.

Knows both sides, `msd.contract` and `native/core`. Does not know requests.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from msd.contract.consent import SIGNALS, consents
from msd.contract.correction import Line
from msd.contract.exploration import Choice, legendre, log_normal
from msd.contract.openrtb import OpenrtbMapping, is_personal
from msd.contract.pricing import Formula
from msd.contract.request import MAX_POSITION
from msd.contract.row_file import RowMemory
from msd.contract.rows import RowCodec, Rows, RowSide
from msd.contract.schema import FeatureSchema, Side
from msd.contract.state import Impression
from msd.contract.tensors import Tensors
from msd.contract.uncertainty import Uncertainty
from native import core
from native.columns import core_field, core_state, core_ufuncs, encode_record

Run = Callable[[Tensors], Mapping[str, NDArray[np.float32]]]
"""Runs a model: the schema's tensors → scores [N] by head."""
Desk = tuple["core.Frame", Tensors, Callable[[int], tuple[NDArray[np.float32], ...]] | None]
"""One thread's frame, its tensors, and how to run the model on the first candidates; None if the core does."""


def core_schema(
    schema: FeatureSchema, codecs: Mapping[RowSide, RowCodec], constants: Mapping[str, str | float] | None = None
) -> "core.Schema":
    """Return the core's form of a schema. `constants`: of the context, in place of the schema's. Raises RuntimeError
    without a core."""
    if core is None:
        raise RuntimeError("the native core is not built")
    categorical, dense = encode_record(schema, "context", schema.serving_constants if constants is None else constants)
    # Of each place of the page, one behind the other; none without a position.
    places = range(1, MAX_POSITION + 1) if schema.position else ()
    at_slots = [encode_record(schema, "context", schema.at_slot(place)) for place in places]
    return core.Schema(
        user=_side(schema, codecs["user"]),
        item=_side(schema, codecs["item"]),
        history_length=schema.history.length,
        context_categorical=categorical.ravel().tolist(),
        context_dense=dense.ravel().tolist(),
        slot_categorical=[value for categories, _ in at_slots for value in categories.ravel().tolist()],
        slot_dense=[value for _, numbers in at_slots for value in numbers.ravel().tolist()],
        context=_fields(schema, "context"),
        ufuncs=core_ufuncs(),
    )


def core_model(
    version: str, formula: Formula, explore_share: float, uncertainty: Uncertainty | None = None
) -> "core.ServedModel":
    """Return what the core's replies need of a model. `explore_share`: of the requests that explore, at most."""
    nodes, weights = legendre()
    return core.ServedModel(
        version=version,
        formula={pricing: heads for pricing, heads in formula.items()},
        explore_share=explore_share,
        quadrature=core.Quadrature(nodes=nodes.tolist(), weights=weights.tolist(), log_normal=log_normal().tolist()),
        uncertainty=None
        if uncertainty is None
        else core.Uncertainty(precision=uncertainty.precision, variance=uncertainty.floor),
    )


def core_corrections(lines: Sequence[Line]) -> "list[core.Correction]":
    """Return the core's form of corrections."""
    return [core.Correction(*line) for line in lines]


def core_openrtb(mapping: OpenrtbMapping) -> "core.Openrtb":
    """Return the core's form of a bundle's mapping of BidRequests."""
    return core.Openrtb(
        users=mapping.user_id,
        features=[(name, path, is_personal(path)) for name, path in mapping.features.items()],
        signals=SIGNALS,
        permits=partial(consents, vendor_id=mapping.vendor_id),
    )


def core_rows(memory: RowMemory) -> "core.RowFile":
    """Return the core's form of a rows file, which the core reads and verifies for itself."""
    header = memory.header
    return core.RowFile(
        body=memory.body,
        proved=memory.proved,
        checksums=memory.checksums,
        descriptor=memory.descriptor,
        base=memory.base,
        starts=header.starts,
        row_starts=header.row_starts,
        rows=header.rows,
        seed=header.seed,
        width=header.width,
        count=header.count,
        start_bytes=memory.start_bytes,
        record_size=memory.record_bytes,
    )


def new_tensors(schema: FeatureSchema, capacity: int) -> Tensors:
    """Return buffers for one request of at most `capacity` candidates."""
    return {
        spec.name: np.zeros((capacity if spec.side == "item" else 1, *spec.shape), spec.dtype)
        for spec in schema.tensors
    }


def new_desk(
    schema: FeatureSchema,
    form: "core.Schema",
    served: "core.ServedModel",
    run: Run | None,
    heads: Sequence[str],
    capacity: int,
) -> Desk:
    """Return what a thread needs of its own. `form`: of the schema; `run`: None if the core runs the model."""
    tensors = new_tensors(schema, capacity)
    of_candidates = [spec.name for spec in schema.tensors if spec.side == "item"]

    def run_first(count: int) -> tuple[NDArray[np.float32], ...]:
        assert run is not None, "the core runs the model"
        scores = run(tensors | {name: tensors[name][:count] for name in of_candidates})
        # A runtime may return a slice of a larger array.
        return tuple(np.ascontiguousarray(scores[head]) for head in heads)

    return core.Frame(form, served, tensors, capacity), tensors, None if run is None else run_first


def fetched_rows(rows: Rows) -> "core.FetchedRows":
    """Return the core's form of the rows of a user [1], or of candidates and history."""
    return core.FetchedRows(rows.records, rows.found, rows.stale, rows.histories[0] if rows.histories else ())


def given_once(ids: Sequence[str], items: Rows) -> Rows:
    """Return the rows of candidates and history with one for equal candidates, as the core takes them. `ids`: of the
    candidates."""
    count = len(ids)
    firsts = [place for place, one in enumerate(ids) if ids.index(one) == place] if len(set(ids)) < count else None
    if firsts is None:
        return items
    rows = [*firsts, *range(count, len(items.found))]
    stale = None if items.stale is None else items.stale[rows]
    return Rows(items.records[rows], items.found[rows], (), 0, stale)


class AskedRequest(NamedTuple):
    """As much of a request as says which rows and vectors it needs: the user, "" if anonymous; candidates, each once;
    its time (Unix s); its own history; and texts by candidate."""

    user_id: str
    ids: list[str]
    at: float | None = None
    history: Sequence[Impression] | None = None
    texts: Mapping[str, str] = {}

    @classmethod
    def of(cls, asked: "core.Asked") -> Self:
        """Return it from the core's form."""
        history, texts = asked.history, asked.texts.items()
        seen = None if history is None else [Impression(*one) for one in history]
        return cls(asked.user_id, asked.ids, asked.at, seen, {item: text for item, text in texts if not text.isspace()})

    def wanted(self, user: Rows) -> list[str]:
        """Return the IDs to fetch rows for: candidates, then the history, which is the row's [1] if it has none."""
        history = user.histories[0] if self.history is None else self.history
        return [*self.ids, *(seen.item_id for seen in history)]


def choice_of(frame: "core.Frame") -> Choice | None:
    """Return which candidate the last reply has first, if the request explores."""
    one = frame.choice
    return None if one is None else Choice(one.policy, one.share, one.seed, one.explored, one.first, one.propensity)


def columns_of(frame: "core.Frame") -> dict[str, NDArray[np.float32]]:
    """Return the scores [N] that the last reply has by head, in the request's order."""
    return {name: np.frombuffer(column, np.float32) for name, column in frame.columns.items()}


def _side(schema: FeatureSchema, codec: RowCodec) -> "core.Side":
    fields = codec.dtype.fields
    assert fields is not None, "a row has fields"
    offsets = {name: int(told[1]) for name, told in fields.items()}
    state = schema.state(codec.side)
    layout = core.RecordLayout(
        size=codec.dtype.itemsize,
        flags=offsets["flags"],
        written_at=offsets["written_at"],
        impressions=offsets["impressions"],
        clicks=offsets["clicks"],
        as_of=offsets["as_of"],
        categorical=offsets["categorical"],
        categoricals=schema.categorical_width(codec.side),
        numeric=offsets["numeric"],
        numerics=schema.numeric_width(codec.side),
        semantic=offsets["semantic"],
        dim=schema.semantic_width(codec.side),
    )
    return core.Side(
        layout=layout,
        state=None if state is None else core_state(state),
        missing=codec.missing.tobytes(),
        fields=_fields(schema, codec.side),
    )


def _fields(schema: FeatureSchema, side: Side) -> "dict[str, core.Field]":
    """Return the fields that a request may set."""
    return {field.name: core_field(field, schema.columns[field.name].start) for field in schema.settable[side].values()}
