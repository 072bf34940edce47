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
    "collm-ml-1m": "92765988fc14ee77b957ef6b7d872fb2918098c73a3f253573dbd711b0647ed9",
    "ml-100k": "41f4fd326b51977a75c96f5df649c0b4c620c4cdfdbccc38b12528c93472ab26",
    "ml-100k-cold": "7337b4def7a8ba6b336a2f1ec8c743746d49e824b09e11432fae8062623bddbe",
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
