"""Describes a bundle to the native core: its schema, row layout and tensor buffers.

Knows both sides, `msd.contract` and `native/core`. Does not know requests.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from msd.contract.consent import SIGNALS, consents
from msd.contract.exploration import legendre, log_normal
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
from native.columns import UFUNCS, encode_record, field_form, state_form

Run = Callable[[Tensors], Mapping[str, NDArray[np.float32]]]
"""Runs a model: the schema's tensors → scores [N] by head."""
_SCALARS = ("flags", "written_at", "impressions", "clicks", "as_of")


def core_schema(
    schema: FeatureSchema, codecs: Mapping[RowSide, RowCodec], constants: Mapping[str, str | float] | None = None
) -> Any:  # noqa: ANN401 - the core has no types
    """Return the core's form of a schema. `constants`: of the context, in place of the schema's. Raises RuntimeError
    without a core."""
    if core is None:
        raise RuntimeError("the native core is not built")
    categorical, dense = encode_record(schema, "context", schema.serving_constants if constants is None else constants)
    # Of each place of the page, one behind the other; none without a position.
    places = range(1, MAX_POSITION + 1) if schema.position else ()
    at_slots = [encode_record(schema, "context", schema.at_slot(place)) for place in places]
    return core.Schema(
        _side(schema, codecs["user"]),
        _side(schema, codecs["item"]),
        schema.history.length,
        categorical.tobytes(),
        dense.tobytes(),
        b"".join(one.tobytes() for one, _ in at_slots),
        b"".join(one.tobytes() for _, one in at_slots),
        _fields(schema, "context"),
        UFUNCS,
    )


def core_model(version: str, formula: Formula, explore_share: float, uncertainty: Uncertainty | None = None) -> Any:  # noqa: ANN401
    """Return what the core's replies need of a model. `explore_share`: of the requests that explore, at most."""
    assert core is not None, "the core has a schema first"
    quadrature = tuple(numbers.tobytes() for numbers in (*legendre(), log_normal()))
    terms = None if uncertainty is None else (uncertainty.precision, uncertainty.floor)
    return core.ServedModel(version, dict(formula), explore_share, quadrature, terms)


def core_openrtb(mapping: OpenrtbMapping) -> Any:  # noqa: ANN401
    """Return the core's form of a bundle's mapping of BidRequests."""
    assert core is not None, "the core has a schema first"
    features = [(name, path, is_personal(path)) for name, path in mapping.features.items()]
    return core.Openrtb(mapping.user_id, features, SIGNALS, partial(consents, vendor_id=mapping.vendor_id))


def core_rows(memory: RowMemory) -> Any:  # noqa: ANN401
    """Return the core's form of a rows file, which the core reads and verifies for itself."""
    assert core is not None, "the core has a schema first"
    header = memory.header
    return core.RowFile(
        memory.body,
        memory.proved,
        memory.checksums,
        memory.descriptor,
        memory.base,
        tuple(tuple(place) for place in (header.starts, header.row_starts, header.rows)),
        (
            header.seed,
            header.width,
            header.count,
            memory.start_bytes,
            memory.record_bytes,
        ),
    )


def new_tensors(schema: FeatureSchema, capacity: int) -> Tensors:
    """Return buffers for one request of at most `capacity` candidates."""
    return {
        spec.name: np.zeros((capacity if spec.side == "item" else 1, *spec.shape), spec.dtype)
        for spec in schema.tensors
    }


def new_desk(
    schema: FeatureSchema, form: object, served: object, run: Run | None, heads: Sequence[str], capacity: int
) -> tuple[object, ...]:
    """Return one thread's frame, its tensors, and how to run the model on the first candidates; None if the core does.
    `form`: of the schema."""
    assert core is not None, "the core has a schema first"
    tensors = new_tensors(schema, capacity)
    of_candidates = [spec.name for spec in schema.tensors if spec.side == "item"]

    def run_first(count: int) -> tuple[NDArray[np.float32], ...]:
        assert run is not None, "the core runs the model"
        scores = run(tensors | {name: tensors[name][:count] for name in of_candidates})
        # A runtime may return a slice of a larger array.
        return tuple(np.ascontiguousarray(scores[head]) for head in heads)

    return core.Frame(form, served, tensors, capacity), tensors, None if run is None else run_first


def given_rows(user: Rows, items: Rows) -> tuple[object, object]:
    """Return the core's form of the rows of a user [1], and of candidates and history."""
    return (
        (user.records, user.found, user.stale, user.histories[0]),
        (items.records, items.found, items.stale),
    )


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
    def of(cls, asked: tuple[Any, ...]) -> Self:
        """Return it from the core's form."""
        user_id, ids, at, history, texts = asked
        seen = None if history is None else [Impression(*one) for one in history]
        return cls(user_id, ids, at, seen, {item: text for item, text in texts.items() if not text.isspace()})

    def wanted(self, user: Rows) -> list[str]:
        """Return the IDs to fetch rows for: candidates, then the history, which is the row's [1] if it has none."""
        history = user.histories[0] if self.history is None else self.history
        return [*self.ids, *(seen.item_id for seen in history)]


def _side(schema: FeatureSchema, codec: RowCodec) -> tuple[object, ...]:
    fields = codec.dtype.fields
    assert fields is not None, "a row has fields"
    offsets = {name: int(told[1]) for name, told in fields.items()}
    state = schema.state(codec.side)
    return (
        (
            codec.dtype.itemsize,
            *(offsets[name] for name in _SCALARS),
            offsets["categorical"],
            schema.categorical_width(codec.side),
            offsets["numeric"],
            schema.numeric_width(codec.side),
            offsets["semantic"],
            schema.semantic_width(codec.side),
        ),
        None if state is None else state_form(state),
        codec.missing.tobytes(),
        _fields(schema, codec.side),
    )


def _fields(schema: FeatureSchema, side: Side) -> tuple[object, ...]:
    """Return the fields that a request may set."""
    return tuple(field_form(field, schema.columns[field.name].start) for field in schema.settable[side].values())
