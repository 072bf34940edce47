"""Tensors of requests with given rows, by the reference."""

from msd.contract.rows import Rows
from msd.contract.schema import FeatureSchema
from msd.contract.tensors import Tensors
from tests.reference import tensors as reference
from tests.reference.request import Seen, read_request
from tests.reference.schema import Schema


def assembled(schema: FeatureSchema, body: bytes, at: float, user: Rows, items: Rows) -> Tensors:
    """Return the tensors of a request at a time (Unix s). `items`: the rows of its candidates, then of its history."""
    known = Schema(schema.model_dump())
    of_user, of_items = (reference.Rows(one.records, one.found) for one in (user, items))
    stored = [Seen(*one) for one in user.histories[0]]
    return reference.assemble(known, read_request(body, known), at, of_user, of_items, stored)


def wanted_items(schema: FeatureSchema, body: bytes, user: Rows) -> list[str]:
    """Return the IDs whose rows `assembled` takes."""
    request = read_request(body, Schema(schema.model_dump()))
    history = reference.history_of(request, [Seen(*one) for one in user.histories[0]])
    return [*request.ids, *(seen.item_id for seen in history)]
