"""A golden has all inputs of its scores; any other is rejected with a clear error."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from msd.contract.bundle import GOLDENS, RANKER, Bundle
from msd.contract.errors import BundleError
from msd.contract.golden import Golden, encode_row, golden_request, golden_rows, read_goldens, write_goldens
from native.bundle_rows import BundleRows
from tests.bundles.factory import golden_events, golden_requests
from tests.contract.examples import ITEMS, SCHEMA, USERS, make_records


def golden(**changes: Any) -> Golden:  # noqa: ANN401
    request = {"user_id": "u", "at": 5, "candidates": {"id": ["i"]}}
    return Golden(**{"request": request, "user": None, "items": {}, "expected": {"pctr": [0.5]}, **changes})


def test_goldens_round_trip(tmp_path: Path) -> None:
    row = encode_row(make_records(USERS, 1)[0].tobytes())
    written = [golden(user=row, expected={"pctr": [0.1 + 0.2, 1e-30]}), golden(request={"user_id": "ß😀"})]
    write_goldens(tmp_path / GOLDENS, written)

    assert list(read_goldens(tmp_path / GOLDENS)) == written
    assert len((tmp_path / GOLDENS).read_text("utf-8").splitlines()) == 2


def test_goldens_suffice_to_repeat_their_scores(whole_bundle: Bundle) -> None:
    session = onnxruntime.InferenceSession(whole_bundle.path(RANKER), providers=["CPUExecutionProvider"])
    rows = BundleRows.of(whole_bundle)
    goldens = list(read_goldens(whole_bundle.path(GOLDENS)))

    assert [one.request for one in goldens] == [*golden_requests(), golden_requests()[0]]
    assert [len(one.events) for one in goldens] == [0] * len(golden_requests()) + [len(golden_events())]
    for one in goldens:
        scores = session.run(list(one.expected), rows.tensors(one))
        np.testing.assert_allclose(scores, list(one.expected.values()), atol=1e-6)


def _read(one: Golden) -> None:
    golden_request(SCHEMA, one)
    golden_rows(USERS, ITEMS, one)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request": {"user_id": "u", "candidates": {"id": ["i"]}}}, "has a request without `at`"),
        ({"request": {"user_id": "u", "at": 5}}, "has no valid request: candidates: is missing"),
        ({"request": {"user_id": "u", "at": float("nan")}}, "has no valid request: None: NaN is not JSON"),
        ({"user": "not base64!"}, "has a row that is not base64"),
        ({"items": {"i": "AAA"}}, "has a row that is not base64"),
    ],
)
def test_rejects_goldens_that_cannot_be_scored(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        _read(golden(**changes))


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"\xff", b'{"request": {}}', json.dumps({**golden().model_dump(), "more": 1}).encode()]
)
def test_rejects_lines_that_are_no_goldens(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / GOLDENS
    write_goldens(path, [golden()])
    path.write_bytes(path.read_bytes() + line + b"\n")

    with pytest.raises(BundleError, match=r"golden\.jsonl:2: not a golden: "):
        list(read_goldens(path))
