"""The evidence: rows as the service sees them, each with the label and user that it has in the dataset."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model_export.errors import ExportError
from model_export.parity import BundleRows
from model_export.precision.evidence import Evidence
from msd.dataset.split import Part
from tests.model_export.conftest import Exported


def test_labels_and_users_are_those_of_the_valid_rows(exported: Exported, evidence: Evidence) -> None:
    features, events = exported.features, exported.inputs.dataset.events
    valid = features.of_part(Part.VALID)

    assert evidence.labels.tolist() == events["label"].to_numpy()[valid].tolist()
    ids = [features.user.entities.ids[user] for user in evidence.users]
    assert ids == events["user_id"].to_numpy()[valid].tolist()


def test_tensors_are_of_one_candidate_each(exported: Exported, evidence: Evidence) -> None:
    specs = exported.bundle.schema.tensors
    rows = list(evidence.valid())
    assert len(rows) == len(evidence.labels)
    for tensors in rows[:20]:
        assert {name: one.shape for name, one in tensors.items()} == {spec.name: (1, *spec.shape) for spec in specs}
        assert all(one.flags.c_contiguous for one in tensors.values())
    train = list(evidence.train())
    assert len(train) == len(exported.features.of_part(Part.TRAIN))
    # Rows differ, as users and items do.
    assert len({tensors["item_categorical"].tobytes() for tensors in train}) > 10


def test_a_request_has_one_user_and_many_items(exported: Exported, evidence: Evidence) -> None:
    tensors = evidence.request(120)
    for spec in exported.bundle.schema.tensors:
        assert tensors[spec.name].shape == (120 if spec.side == "item" else 1, *spec.shape)
    assert len(np.unique(tensors["item_categorical"], axis=0)) > 10


def test_by_valid_rows_of_one_label_nothing_is_judged(exported: Exported) -> None:
    features = replace(exported.features, labels=torch.zeros_like(exported.features.labels))
    evidence = Evidence(exported.inputs.dataset, features, BundleRows(exported.bundle))
    assert evidence.request(3)  # to time a graph by them, they will do
    with pytest.raises(ExportError, match="the valid rows have one label only: .* use --precision fp32"):
        evidence.valid()
