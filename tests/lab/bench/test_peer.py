"""The peer is compared with our service; one that is absent, dies or scores otherwise is an error.

A plain server stands for LitServe, which tests do not install.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.console import Console

from lab.bench import peer
from lab.bench.bench import BenchPlan
from lab.bench.peer import bench_peer, peer_tables
from lab.reference.bundles import Bundles
from loadtest.processes import ProcessError
from msd.contract.errors import MsdError
from tests.lab.conftest import MAKINGS

PLAIN = (sys.executable, "-m", "tests.lab.bench.plain_peer")
PLAN = BenchPlan(makings=MAKINGS, seconds=0.1, rounds=1, workers=(1,), clients=2, bodies=30)


def test_compares_each_graph_in_turns(bundles: Bundles, work: Path) -> None:
    found = bench_peer(PLAN, work.parent, lambda doing, done, total: None, PLAIN)

    assert found["ratios"].keys() == {"factorised", "as_deployed"}
    for name, rates in found["requests_per_s"].items():
        assert found["ratios"][name] == pytest.approx(rates["ours"] / rates["peer"], rel=0.01)
    json.dumps(found, allow_nan=False)
    console = Console(width=160)
    with console.capture() as captured:
        console.print(*peer_tables(found))
    assert "as_deployed" in captured.get()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ((sys.executable, "-c", "raise SystemExit('no licence')"), "(?s)ended with exit code 1; it said: .*no licence"),
        ((*PLAIN, "0.001"), "differ by 1.0e-03"),
        ((*PLAIN, "mute"), "not the requested scores"),
    ],
)
def test_wrong_peer_is_an_error(bundles: Bundles, work: Path, command: tuple[str, ...], message: str) -> None:
    with pytest.raises(ProcessError, match=message):
        bench_peer(PLAN, work.parent, lambda doing, done, total: None, command)


def test_missing_peer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "find_spec", lambda name: find_spec("no_such_package"))
    with pytest.raises(MsdError, match="pip install 'litserve"):
        bench_peer(PLAN, tmp_path, lambda doing, done, total: None)
