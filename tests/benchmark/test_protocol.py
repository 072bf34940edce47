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
    "collm-ml-1m": "e113e15c08c6fe34c560e5fd61efd7cad674a18b4168d0ea6cf45f44111285ac",
    "ml-100k": "41f19b677ce79c906c3fdaf6a4fdc4975a1209b021bc9258a44b7752e93b357e",
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
