"""Peers: their requests say what they should; one that does not work is left out by name. None is installed here."""

import base64
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lab.bench.peers import contest
from lab.bench.peers.install import installed, version_of
from lab.bench.peers.peers import PEERS, Peer
from lab.bench.peers.tables import peer_tables
from lab.bench.peers.wire import from_json, in_json, pack, unpack
from lab.bench.plan import BenchPlan
from lab.reference.bundles import Bundles
from loadtest.processes import ProcessError
from loadtest.requests import headers_of, http_request
from tests.loadtest.conftest import MAKINGS

PLAIN = Peer(
    name="plain",
    packages=("numpy>=2",),
    command=("python", "-m", "tests.lab.bench.plain_peer"),
    health="/",
    request=lambda tensors: http_request("/score", pack(tensors), Content_Type="application/octet-stream"),
    scores=lambda body: json.loads(body)["pctr"],
)
PLAN = BenchPlan(makings=MAKINGS, seconds=0.1, rounds=1, workers=(1,), clients=(1, 2), bodies=30)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), min_size=1, max_size=4))
def test_what_is_packed_is_unpacked(shapes: list[tuple[int, int]]) -> None:
    tensors = {
        f"tensor {number}": np.random.default_rng(number)
        .integers(0, 9, shape)
        .astype([np.int32, np.float32][number % 2])
        for number, shape in enumerate(shapes)
    }
    for found in (unpack(pack(tensors)), from_json(json.loads(in_json(tensors))["tensors"])):
        assert list(found) == list(tensors)
        for name, one in tensors.items():
            np.testing.assert_array_equal(found[name], one)
            assert found[name].dtype == one.dtype


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peers_request_holds_the_tensors(peer: Peer) -> None:
    tensors = {"item_categorical": np.arange(6, dtype=np.int32).reshape(3, 2), "user": np.ones((1, 4), np.float32)}
    request = peer.request(tensors)
    body = request.partition(b"\r\n\r\n")[2]
    assert headers_of(request)["Content-Length"] == str(len(body))
    if headers_of(request)["Content-Type"] == "application/json":
        document = json.loads(body)
        encoded = document["inputs"][0]["data"][0] if "inputs" in document else document["tensors"]
        body = base64.b64decode(encoded)
    np.testing.assert_array_equal(unpack(body)["item_categorical"], tensors["item_categorical"])


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_is_told_its_graph_port_and_workers(peer: Peer, tmp_path: Path) -> None:
    service = peer.service("name", tmp_path, Path("ranker.onnx"), 3, 1)

    assert service.environment["PEER_GRAPH"] == str(Path("ranker.onnx").absolute())
    assert (service.environment["PEER_WORKERS"], service.environment["PEER_THREADS"]) == ("3", "1")
    assert "{port}" in {*service.command, *service.environment.values()}
    assert Path(service.command[0]).parent == tmp_path
    assert all("{workers" not in value for value in service.environment.values())


def test_what_cannot_be_installed_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="(?s)plain: could not be installed: .*nowhere"):
        installed(replace(PLAIN, packages=(str(tmp_path / "nowhere"),)), tmp_path / "environment")


def _installed_here(peer: Peer, folder: Path) -> Path:
    if not peer.packages:
        raise ProcessError(f"{peer.name}: could not be installed: no such package")
    return Path(sys.executable).parent


def test_ours_is_held_against_each_and_what_fails_is_left_out(
    bundles: Bundles, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest, "installed", _installed_here)
    peers = [
        PLAIN,
        replace(PLAIN, name="absent", packages=()),
        replace(PLAIN, name="dead", command=("python", "-c", "raise SystemExit('no licence')")),
        replace(PLAIN, name="wrong", environment={"PLAIN_PEER_ERROR": "0.001"}),
        replace(PLAIN, name="mute", scores=lambda body: json.loads(body)["scores"]),
    ]

    found = contest.bench_peers(PLAN, work.parent, lambda doing, done, total: None, peers)

    for way in ("fp32", "best", "as_deployed"):
        assert found[f"peer_ratio_{way}"].keys() == {"plain"}
        rates = {name: one["goodput"] for name, one in found["absolute"]["plain"][way].items()}
        assert found[f"peer_ratio_{way}"]["plain"] == pytest.approx(rates["ours"] / rates["peer"], rel=0.01)
    assert found["left_out"].keys() == {"absent", "dead", "wrong", "mute"}
    assert "no such package" in found["left_out"]["absent"]
    assert "no licence" in found["left_out"]["dead"]
    assert "differ by 1.0e-03" in found["left_out"]["wrong"]
    assert "not the requested scores" in found["left_out"]["mute"]
    assert found["peer_versions"]["plain"] == version_of(PLAIN, Path(sys.executable).parent)
    json.dumps(found, allow_nan=False)
    _shown(found)


def _shown(found: dict[str, Any]) -> None:
    console = Console(width=160, record=True, file=None, quiet=False)
    with console.capture() as captured:
        for table in peer_tables(found):
            console.print(table)
    assert "plain" in captured.get()
    assert "no licence" in captured.get()
