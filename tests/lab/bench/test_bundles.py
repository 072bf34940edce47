"""The reference model's bundles are bundles like any other, and their rows are what the clicks were generated from."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from lab.reference.bundles import Bundles, made_bundles
from lab.reference.market import Market, new_market, schema_of
from msd.contract.bundle import GOLDENS, RANKER, ROWS, Bundle, open_bundle
from msd.contract.golden import read_goldens
from msd.contract.row_file import RowFile
from msd.contract.rows import RowCodec, RowSide
from native.bundle_rows import BundleRows
from tests.lab.conftest import MAKINGS
from tests.lab.reference.small import SMALL, network

SIDES: tuple[RowSide, ...] = ("user", "item")


@pytest.fixture(scope="module")
def market() -> Market:
    return new_market(network(), MAKINGS.population)


@pytest.fixture(scope="module")
def fp32(bundles: Bundles) -> Bundle:
    return open_bundle(bundles.fp32)


def test_rows_are_what_was_generated(fp32: Bundle, market: Market) -> None:
    codecs = [RowCodec(fp32.schema, side, fp32.bundle_id) for side in SIDES]
    users, items = (RowFile(fp32.path(ROWS[codec.side]), codec, fp32.bundle_id) for codec in codecs)
    clicks, catalogue = market.clicks, market.clicks.catalogue
    assert (users.count, items.count) == (len(clicks.user_fields), len(catalogue.item_fields))
    some = [0, 7, users.count - 1]
    found = users.get([f"u{row:06d}" for row in some])
    np.testing.assert_array_equal(found.records["categorical"], clicks.user_fields[some])
    np.testing.assert_allclose(found.records["semantic"], clicks.user_vectors[some], atol=1e-3)
    for row, seen in zip(some, found.histories, strict=True):
        history = [impression.item_id for impression in seen if impression.clicked]
        known = [f"i{item:06d}" for item in clicks.history[row] if item >= 0]
        # Later clicks, of the user's two rows for training, were added, and the oldest fell out.
        before = [history[: len(history) - more] for more in (0, 1, 2)]
        assert any(len(part) and part == known[-len(part) :] for part in before)
        assert len(seen) <= SMALL.history
    found = items.get([f"i{row:06d}" for row in some])
    np.testing.assert_array_equal(found.records["categorical"], catalogue.item_fields[some])
    np.testing.assert_allclose(found.records["semantic"], catalogue.item_vectors[some], atol=1e-3)


def test_bundle_is_proved_and_judged_like_any_other_and_kept(bundles: Bundles, fp32: Bundle, work: Path) -> None:
    assert fp32.schema == schema_of(SMALL)
    assert fp32.manifest.provenance["graph"]["fp64_max_diff"] <= 1e-12
    assert fp32.manifest.provenance["parity"]["requests"] == MAKINGS.requests
    record = open_bundle(bundles.best).precision
    assert record.asked == "auto"
    assert record.tried.keys() >= {"fp32", "int8", "bf16"}
    assert bundles.precision == record.chosen
    assert made_bundles(work, MAKINGS, lambda doing, *_: pytest.fail(doing)) == bundles


def test_graphs_of_others_score_as_the_bundle(bundles: Bundles, fp32: Bundle) -> None:
    golden = next(golden for golden in read_goldens(fp32.path(GOLDENS)) if golden.user and len(golden.items) > 3)
    tensors = BundleRows.of(fp32).tensors(golden)
    count = len(tensors["item_categorical"])
    scores = []
    for path in (fp32.path(RANKER), bundles.tiled):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feed = {value.name: tensors[value.name] for value in session.get_inputs()}
        if path == bundles.tiled:
            feed = {name: value if len(value) == count else np.repeat(value, count, 0) for name, value in feed.items()}
        scores.append(session.run(["pctr"], feed)[0])
    assert np.ptp(scores[0]) > 0
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], atol=1e-6)
    axes = {value.type.tensor_type.shape.dim[0].dim_param for value in onnx.load(bundles.tiled).graph.input}
    assert len(axes) == 1
    assert all(axes)
