"""What others train on is what our own network is asked with, event by event."""

import numpy as np
import pytest
import torch

from msd.dataset.split import Part
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features
from msd.ranker.tensor_folder import adapt_all, event_tensors
from tests.ranker.made import World, batch_logits


def _asked(model: TrainedRanker, features: Features, events: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval().ranker(event_tensors(features, adapt_all(model.adaptors, features), events))
    return logits


@pytest.mark.parametrize("part", list(Part))
def test_the_network_says_of_them_what_it_says_of_a_batch(world: World, part: Part) -> None:
    events = world.features.of_part(part)[:60]
    with torch.no_grad():
        expected = batch_logits(world.model.eval(), world.features, events)
    np.testing.assert_allclose(_asked(world.model, world.features, events), expected, atol=1e-5)


def test_without_semantics_there_are_no_vectors_among_them(plain_world: World) -> None:
    events = plain_world.features.of_part(Part.TEST)[:60]
    assert not adapt_all(plain_world.model.adaptors, plain_world.features)
    with torch.no_grad():
        expected = batch_logits(plain_world.model.eval(), plain_world.features, events)
    np.testing.assert_allclose(_asked(plain_world.model, plain_world.features, events), expected, atol=1e-5)


def test_they_have_the_schemas_names_types_and_widths(world: World) -> None:
    tensors = event_tensors(world.features, adapt_all(world.model.adaptors, world.features), np.arange(7))
    found = {name: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}
    assert found == {spec.name: (f"torch.{spec.dtype}", (7, *spec.shape)) for spec in world.schema.tensors}
