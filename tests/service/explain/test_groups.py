"""What belongs to which group: everything to one, and what is left out is as of somebody unknown."""

import json
from itertools import combinations

import numpy as np
import pytest

from msd.contract.assemble import Tensors
from msd.contract.bundle import GOLDENS, Bundle
from msd.contract.golden import golden_tensors, read_goldens
from msd.contract.request import parse_request
from msd.contract.rows import RowCodec
from service.explainer import GROUPS, KnownGroups, unknown
from tests.bundles.factory import AT


@pytest.fixture(scope="module")
def nothing(bundle: Bundle) -> Tensors:
    """The tensors of a request of which nothing is known."""
    return unknown(bundle.schema, *codecs(bundle), AT)


def codecs(bundle: Bundle) -> tuple[RowCodec, RowCodec]:
    """Of users and of items."""
    schema, number = bundle.schema, bundle.bundle_id
    return RowCodec(schema, "user", number), RowCodec(schema, "item", number)


def requests(bundle: Bundle) -> list[Tensors]:
    """The tensors of all goldens."""
    return [
        golden_tensors(bundle.schema, *codecs(bundle), golden).tensors for golden in read_goldens(bundle.path(GOLDENS))
    ]


def test_with_all_groups_it_is_the_request_and_with_none_nothing_is_known(bundle: Bundle, nothing: Tensors) -> None:
    for tensors in requests(bundle):
        knowledge = KnownGroups(bundle.schema, tensors, nothing)
        for name, whole in tensors.items():
            np.testing.assert_array_equal(knowledge.of(GROUPS)[name], whole)
            np.testing.assert_array_equal(knowledge.of(())[name], np.broadcast_to(nothing[name], whole.shape))


def test_groups_that_are_left_out_one_by_one_are_left_out_together(bundle: Bundle, nothing: Tensors) -> None:
    tensors = requests(bundle)[0]
    for kept in combinations(GROUPS, 2):
        once = KnownGroups(bundle.schema, tensors, nothing).of(kept)
        first = KnownGroups(bundle.schema, tensors, nothing).of({*kept, next(g for g in GROUPS if g not in kept)})
        twice = KnownGroups(bundle.schema, first, nothing).of(kept)
        for name in tensors:
            np.testing.assert_array_equal(once[name], twice[name])


def test_each_group_takes_what_its_name_says(bundle: Bundle, nothing: Tensors) -> None:
    tensors, schema = requests(bundle)[0], bundle.schema
    knowledge = KnownGroups(schema, tensors, nothing)
    assert knowledge.groups == GROUPS
    changed = {
        group: {
            name
            for name, tensor in knowledge.of([g for g in GROUPS if g != group]).items()
            if not np.array_equal(tensor, tensors[name])
        }
        for group in GROUPS
    }
    semantic = {"user_semantic", "item_semantic", "history_semantic", "user_dense", "item_dense"}
    assert changed["semantic"] == semantic
    assert changed["id"] == {"user_categorical", "item_categorical", "history_categorical"}
    assert changed["history"] == {"history_mask", "history_categorical", "history_semantic"}
    assert changed["dense"] == {*changed["id"], "user_dense", "item_dense", "context_categorical", "context_dense"}


def test_of_somebody_unknown_there_are_no_groups(bundle: Bundle, nothing: Tensors) -> None:
    assert KnownGroups(bundle.schema, nothing, nothing).groups == ()


def test_without_one_of_the_clicked_the_later_ones_move_up(bundle: Bundle, nothing: Tensors) -> None:
    schema, (users, items) = bundle.schema, codecs(bundle)
    golden = next(read_goldens(bundle.path(GOLDENS)))
    asked = {**golden.request, "user": {"history": ["i1", "i2", "i3"]}}
    rows = {**golden.items, **{name: golden.items["i1"] for name in ("i1", "i3")}}
    tensors = golden_tensors(schema, users, items, golden.model_copy(update={"request": asked, "items": rows})).tensors
    asked["user"] = {"history": ["i1", "i3"]}
    fewer = golden_tensors(schema, users, items, golden.model_copy(update={"request": asked, "items": rows})).tensors
    assert parse_request(json.dumps(asked).encode(), schema).history == ["i1", "i3"]
    for name, tensor in KnownGroups(schema, tensors, nothing).without_clicked(1).items():
        np.testing.assert_array_equal(tensor, fewer[name])
