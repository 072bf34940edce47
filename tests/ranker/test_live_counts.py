"""Live counts: as if all events were training rows; unchanged where no other part came before."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from msd.dataset.config import SplitConfig
from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker.features import Features, build_features
from msd.ranker.schema_fit import fit_schema
from tests.ranker.made import word_vectors


@pytest.fixture(scope="module", params=[True, False], ids=["vectors", "no vectors"])
def features(tiny: Dataset, request: pytest.FixtureRequest) -> Features:
    return build_features(tiny, fit_schema(tiny, semantics=request.param), word_vectors(tiny))


def test_training_rows_stay_and_test_rows_see_more(tiny: Dataset, features: Features) -> None:
    live = features.live()
    training, test = features.of_part(Part.WINDOW, Part.TRAIN), features.of_part(Part.TEST)
    for one, other in ((live.user, features.user), (live.item, features.item)):
        assert torch.equal(one.dense[training], other.dense[training])
        changed = (one.dense[test] != other.dense[test]).any(0)
        # What is no count does not move: numbers before, and whether there is a vector after.
        assert 0 < changed.sum() <= 4
    assert torch.equal(live.history, features.history)
    np.testing.assert_array_equal(live.parts, features.parts)


def test_counts_are_those_of_a_dataset_that_trains_on_nearly_everything(tiny: Dataset, features: Features) -> None:
    """Cuts so late that but one event a user is valid and one is test: what comes before counts."""
    late = tiny.config.model_copy(update={"split": SplitConfig(profile_window=0.5, train=0.96, valid=0.98)})
    dataset = replace(tiny, config=late)
    expected = build_features(dataset, features.schema, word_vectors(tiny))
    live = features.live()
    same = np.intersect1d(expected.of_part(Part.TRAIN), features.of_part(Part.TEST))
    assert len(same) > 50
    assert torch.equal(live.user.dense[same], expected.user.dense[same])
    assert torch.equal(live.item.dense[same], expected.item.dense[same])
