"""Frozen protocols: any setting that figures depend on changes the hash, what is only said of them does not."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lab.benchmark import command
from lab.benchmark.protocol import Protocol
from msd.ranker.model import RankerConfig
from msd.student.distill import DistillConfig
from msd.training.train import TrainConfig

ROOT = Path(__file__).parents[3]
COLD = command.BENCHMARKS["ml-100k-cold"]

# A protocol changes only on purpose: with a new hash here, all of its figures made again, and another look at test.
FROZEN = {
    "collm-ml-1m": "3420417ed7bb3e8904a19971cc0aeb8e0735b35c30719120a694887797067625",
    "ml-100k": "6e4de7bcb22a69871c1accd0871a17018326eb51bd17085acf5f51d25ae7395c",
    "ml-100k-cold": "ae7bd5c73ba39197d10393bed966dc84b6432518628be28318c40545531f75a4",
}


def test_protocols_are_the_published_ones_and_looks_are_not_hashed() -> None:
    assert {name: protocol.sha256() for name, protocol in command.BENCHMARKS.items()} == FROZEN
    assert replace(COLD, looks=(*COLD.looks, "once more")).sha256() == COLD.sha256()
    assert json.loads(json.dumps(COLD.frozen())) == COLD.frozen()


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
def test_every_setting_changes_the_hash(changed: Protocol) -> None:
    assert changed.sha256() != COLD.sha256()


def test_every_model_is_on_the_page_of_protocols() -> None:
    page = (ROOT / "docs" / "protocols.md").read_text("utf-8")
    table = page.partition("## Models")[2].partition("## ")[0]
    listed = {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall("`(.+?)`", row)}

    assert listed == {variant.name for protocol in command.BENCHMARKS.values() for variant in protocol.variants}
