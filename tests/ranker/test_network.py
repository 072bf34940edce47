"""The configuration's word chooses the network, in training and when a model is read from its folder."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from msd.ranker.baselines import DcnV2, DeepFm, Din, LogisticRegression
from msd.ranker.batch import TrainedRanker
from msd.ranker.folder import RankerRecord, load_ranker, save_ranker
from msd.ranker.model import Ranker, RankerConfig
from msd.ranker.network import new_network
from msd.student.record import VECTOR_DIM
from tests.ranker.made import SMALL, World

CLASSES = {"msd": Ranker, "lr": LogisticRegression, "deepfm": DeepFm, "din": Din, "dcnv2": DcnV2}


@pytest.mark.parametrize(("name", "made"), CLASSES.items())
def test_each_word_has_its_network(name: str, made: type, plain_world: World) -> None:
    assert type(new_network(plain_world.schema, SMALL.model_copy(update={"network": name}))) is made


def test_the_network_is_msd_unless_said() -> None:
    assert RankerConfig().network == "msd"
    with pytest.raises(ValidationError, match="Input should be 'msd', 'lr', 'deepfm', 'din' or 'dcnv2'"):
        RankerConfig.model_validate({"network": "wide"})


def test_a_folder_gives_back_the_network_that_it_was_given(tmp_path: Path, world: World) -> None:
    config = SMALL.model_copy(update={"network": "din"})
    model = TrainedRanker(world.schema, config, VECTOR_DIM)
    record = RankerRecord(
        feature_schema=world.schema,
        config=config,
        training={"seed": 0},
        curve=(),
        vector_dim=VECTOR_DIM,
        dataset="d" * 64,
        student="5" * 64,
    )
    save_ranker(tmp_path, model, record)
    found, again = load_ranker(tmp_path)
    assert again == record
    assert isinstance(found.ranker, Din)
    assert all(torch.equal(found.state_dict()[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["deepfm", "din", "dcnv2"])
def test_a_baseline_without_an_mlp_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=f"hidden is empty, and the network '{name}' is not without an MLP"):
        RankerConfig.model_validate({"network": name, "hidden": ()})
