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
    "collm-ml-1m": "8ffcbcd4071ffe6e285ae3e313d5c283154f37df6342d0565e86302762984ede",
    "ml-100k": "e42f86e26fb8012c4429ceb008071edbd0a981930a7bd7ed0b744c5a005dab65",
    "ml-100k-cold": "e5bf2f37d4e4e2749c8e920a5b38cc809c5fd8401adfb30d652941899b39c714",
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
