"""A golden carries all that its scores came from, and says clearly when it does not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from msd.contract.bundle import GOLDENS, RANKER, Bundle
from msd.contract.errors import BundleError
from msd.contract.golden import Golden, encode_row, golden_tensors, read_goldens, write_goldens
from msd.contract.rows import RowCodec, RowSide, pack_history
from tests.bundles.factory import golden_requests
from tests.contract.examples import ITEMS, OTHER_ID, SCHEMA, USERS, make_records

SIDES: tuple[RowSide, ...] = ("user", "item")


def golden(**changes: Any) -> Golden:  # noqa: ANN401
    """A golden of one candidate, with some parts changed."""
    request = {"user_id": "u", "at": 5, "candidates": {"id": ["i"]}}
    return Golden(**{"request": request, "user": None, "items": {}, "expected": {"pctr": [0.5]}, **changes})


def test_goldens_come_back_as_they_were_written(tmp_path: Path) -> None:
    row = encode_row(make_records(USERS, 1)[0].tobytes())
    written = [golden(user=row, expected={"pctr": [0.1 + 0.2, 1e-30]}), golden(request={"user_id": "ß😀"})]
    write_goldens(tmp_path / GOLDENS, written)

    assert list(read_goldens(tmp_path / GOLDENS)) == written
    assert len((tmp_path / GOLDENS).read_text("utf-8").splitlines()) == 2


def test_the_graph_gives_a_bundle_s_goldens_from_nothing_but_themselves(whole_bundle: Bundle) -> None:
    session = onnxruntime.InferenceSession(whole_bundle.path(RANKER), providers=["CPUExecutionProvider"])
    users, items = (RowCodec(SCHEMA, side, whole_bundle.bundle_id) for side in SIDES)
    goldens = list(read_goldens(whole_bundle.path(GOLDENS)))

    assert [one.request for one in goldens] == golden_requests()
    for one in goldens:
        scores = session.run(list(one.expected), golden_tensors(SCHEMA, users, items, one).tensors)
        np.testing.assert_allclose(scores, list(one.expected.values()), atol=1e-6)


def test_rows_that_a_golden_has_not_are_missing() -> None:
    with_rows = {
        "user": encode_row(make_records(USERS, 1)[0].tobytes() + pack_history([])),
        "items": {"i": encode_row(make_records(ITEMS, 1)[0].tobytes())},
    }
    merged, bare = (golden_tensors(SCHEMA, USERS, ITEMS, one) for one in (golden(**with_rows), golden()))

    assert (merged.degraded_candidates, merged.degraded_user) == ({}, None)
    assert (bare.degraded_candidates, bare.degraded_user) == ({"i": "prior"}, "unknown")


def test_rows_of_another_bundle_are_missing_in_a_golden() -> None:
    foreign = make_records(RowCodec(SCHEMA, "item", OTHER_ID), 1)[0].tobytes()

    assert golden_tensors(SCHEMA, USERS, ITEMS, golden(items={"i": encode_row(foreign)})).degraded_candidates


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"request": {"user_id": "u", "candidates": {"id": ["i"]}}}, "has no `at`"),
        ({"request": {"user_id": "u", "at": 5}}, "not valid: candidates: is missing"),
        ({"request": {"user_id": "u", "at": float("nan")}}, "not valid: None: NaN is not JSON"),
        ({"user": "not base64!"}, "not base64"),
        ({"items": {"i": "AAA"}}, "not base64"),
    ],
)
def test_goldens_that_cannot_be_scored(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        golden_tensors(SCHEMA, USERS, ITEMS, golden(**changes))


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"\xff", b'{"request": {}}', json.dumps({**golden().model_dump(), "more": 1}).encode()]
)
def test_lines_that_are_no_goldens(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / GOLDENS
    write_goldens(path, [golden()])
    path.write_bytes(path.read_bytes() + line + b"\n")

    with pytest.raises(BundleError, match=r"golden\.jsonl:2: not a golden: "):
        list(read_goldens(path))
