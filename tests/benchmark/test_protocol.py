"""Frozen protocols: any setting that figures depend on changes the hash, what is only said of them does not."""

import json
from dataclasses import replace

import pytest

from msd.benchmark import command
from msd.benchmark.protocol import Protocol
from msd.ranker.model import RankerConfig
from msd.ranker.train import TrainConfig
from msd.student.distill import DistillConfig

COLD = command.BENCHMARKS["ml-100k-cold"]

# A protocol changes only on purpose: with a new hash here, all of its figures made again, and another look at test.
FROZEN = {
    "collm-ml-1m": "5dfe377d3c0c03221d456f8cef27bf523a80a71148af57a9b0cbdbfa0cc13f43",
    "ml-100k": "56274e80d6d3d9f8ad8d7e0d35bb219a5e322c331591f480c5f39dfe50fc9596",
    "ml-100k-cold": "71e76be9062ad97a37522ee6ccd13fd16d36f05842346ad04f076d2389e82a87",
}


def test_the_protocols_are_the_published_ones() -> None:
    assert {name: protocol.sha256() for name, protocol in command.BENCHMARKS.items()} == FROZEN


@pytest.mark.parametrize(
    "changed",
    [
        replace(COLD, seeds=3),
        replace(COLD, hidden=0.3),
        replace(COLD, ranker=RankerConfig(affinity=8)),
        replace(COLD, training=TrainConfig(learning_rate=1e-3)),
        replace(COLD, distilling=DistillConfig(holdout=0.2)),
        replace(COLD, variants=COLD.variants[:-1]),
        replace(COLD, variants=(replace(COLD.variants[0], changes={"fusion": False}), *COLD.variants[1:])),
    ],
)
def test_every_setting_counts(changed: Protocol) -> None:
    assert changed.sha256() != COLD.sha256()


def test_looks_are_told_and_not_hashed() -> None:
    again = replace(COLD, looks=(*COLD.looks, "once more"))
    assert again.sha256() == COLD.sha256()
    assert json.loads(json.dumps(COLD.frozen())) == COLD.frozen()
