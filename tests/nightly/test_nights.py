"""Nights by a known law: the loop keeps the bundle on noise, replaces it on drift, keeps it on a poisoned night."""

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from msd.contract.bundle import open_bundle
from msd.contract.correction import LearnedCorrection, read_corrections, write_corrections
from msd.feedback.scored_bundle import ScoredBundle
from tests.nightly.world import DAY, START, World
from tests.ranker.brief import brief_tastes  # noqa: F401 - a fixture
from tests.service.live import run_msd

COUNT = 2_500
CONFIG = """
logs = ["logs"]
dataset = "data"
work = "work"
bundles = "bundles"
corrections = "corrections.json"
semantics = false
train = ["--epochs", "2"]
export = ["--requests", "20"]

[window]
days = 1.1

[gate]
calibration = 2.0
ece = 0.1
latency = 1000
unknown = "figures"
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose services serve a bundle of its past."""
    world = World(tmp_path_factory.mktemp("world"))
    data, bundles = world.write_past(2 * COUNT), world.folder / "bundles"
    write_config(world, CONFIG)
    for line in (
        ("train", data, world.folder / "model", "--no-semantics", "--epochs", "2"),
        ("export", data, world.folder / "model", bundles / "first", "--requests", "20"),
        ("rollback", bundles, "--to", "first"),
    ):
        done = run_msd(*map(str, line))
        assert done.returncode == 0, done.stdout + done.stderr
    return world


def write_config(world: World, config: str) -> None:
    (world.folder / "nightly.toml").write_text(config, "utf-8")


def night(world: World, name: str) -> dict[str, Any]:
    """The record of a night, whose status is the command's exit status."""
    done = run_msd("nightly", str(world.folder / "nightly.toml"), "--night", name)
    record: dict[str, Any] = json.loads((world.folder / "work/nights" / name / "nightly.json").read_text())
    assert done.returncode == {"promoted": 0, "kept": 3, "failed": 1}[record["status"]], done.stdout + done.stderr
    return record


def test_nights_promote_on_drift_alone(world: World) -> None:
    """Without drift the old bundle stays, and after a poisoned night; a failed night leaves it and goes on later."""
    bundles, nights = world.folder / "bundles", world.folder / "work/nights"
    world.serve(0, bundles / "current", COUNT)
    noise = night(world, "n0")
    assert (noise["status"], noise["counts"]["new_impressions"]) == ("kept", noise["counts"]["joined_impressions"])
    assert noise["why"][0].startswith("sure gain of logloss: "), "it is not above 0 surely"

    write_config(world, CONFIG.replace("[gate]", "[gate]\nclicks = 100000"))
    assert night(world, "n0")["why"][0].startswith("clicks: "), "another gate judges a finished night anew"

    world.drift()
    world.serve(1, bundles / "current", COUNT)
    write_config(world, CONFIG + "[rollout]\nhold_minutes = 0.001\nmost_hours = 0.0005\n")
    unseen = night(world, "n1")
    assert (unseen["status"], unseen["why"][0]) == ("kept", "the rollout ended at 1% of the users"), "it had no traffic"
    assert (bundles / "current").resolve().name == "first"
    assert not (bundles / "experiment.json").exists()
    write_config(world, CONFIG.replace('unknown = "figures"', ""))
    unsure = night(world, "n1")  # without a rollout: other bounds
    assert (unsure["status"], unsure["verdict"]["decision"]) == ("kept", "unknown"), "no request explored"
    assert "add a [rollout]" in unsure["notes"][0]
    assert "add a [rollout]" in (nights / "n1/nightly.html").read_text("utf-8")
    write_config(world, CONFIG)
    moved = night(world, "n1")
    assert moved["status"] == "promoted"
    assert moved["verdict"]["models"]["old"]["auc"] < 0.5 < 0.6 < moved["verdict"]["models"]["new"]["auc"]
    assert [(bundles / name).resolve().name for name in ("current", "previous")] == ["n1", "first"]
    assert "promoted" in (nights / "n1/nightly.html").read_text("utf-8")
    corrected = read_corrections(world.folder / "corrections.json")
    assert (moved["verdict"]["models"]["new"]["bundle_id"] in corrected) == bool(moved["verdict"]["correction"])

    (nights / "n1/nightly.json").unlink()
    assert night(world, "n1")["verdict"] == moved["verdict"], "what was published is not judged against itself"

    world.serve(2, bundles / "current", COUNT, bots=0.9)
    poisoned = night(world, "n2")
    assert (bundles / "current").resolve().name == "n1"
    assert (poisoned["status"], poisoned["is_accepted"]) == ("kept", False)
    assert "than a factor of 3" in poisoned["why"][0]

    world.serve(3, bundles / "current", 1_200, clicks=False)
    silent = night(world, "silent")
    assert (silent["status"], silent["is_accepted"]) == ("kept", False)
    assert silent["click_rates"]["new"] < 0.01, "clicks of the day before may be left"

    world.serve(4, bundles / "current", COUNT)
    write_config(world, CONFIG.replace('"2"', '"none"'))
    assert night(world, "n3")["status"] == "failed"
    joined = (nights / "n3/joined.json").stat().st_mtime_ns
    write_config(world, CONFIG)
    later = night(world, "n3")
    assert later["status"] in ("kept", "promoted")
    assert (nights / "n3/joined.json").stat().st_mtime_ns == joined, "a step is done once"
    assert later["counts"]["impressions_of_refused_nights"] == sum(later["left_out"].values()) >= COUNT
    assert set(later["left_out"]) == {"n2", "silent"}
    assert later["click_rates"]["new"] < 0.4
    assert later["click_rates"]["dataset"] == moved["click_rates"]["new"], "that of kept nights may be of bots"
    assert later["verdict"]["models"]["old"]["bundle_id"] == moved["verdict"]["models"]["new"]["bundle_id"]
    assert night(world, "n3") == later


def test_failed_night_changes_nothing(world: World) -> None:
    bundles = world.folder / "bundles"
    served = bundles.joinpath("current").readlink()
    (bundles / "current").unlink()
    (bundles / "current").write_text("\n", "utf-8")
    lost = night(world, "lost")
    (bundles / "current").unlink()
    (bundles / "current").symlink_to(served)
    world.serve(9, bundles / "current", 1_200)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**12, unlimited[1]))
    try:
        full = night(world, "no-space")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    torn = world.folder / "logs/b/requests-torn.parquet"
    torn.write_bytes(b"PAR1")
    half = night(world, "half-written")
    pl.read_parquet(next(torn.parent.glob("requests-9*"))).drop("item_ids").write_parquet(torn)
    changed = night(world, "changed")
    torn.unlink()

    assert [one["status"] for one in (lost, full, half, changed)] == ["failed"] * 4
    assert "File too large" in full["why"][0]
    assert bundles.joinpath("current").readlink() == served
    assert "leads to no bundle to compare with" in lost["why"][0]
    for one in (half, changed):
        assert "requests-torn.parquet: is not a file of a request log" in one["why"][0]
    assert "item_ids" in changed["why"][0]


def test_rejects_mistaken_configuration(tmp_path: Path) -> None:
    config = tmp_path / "nightly.toml"
    for text, words in (
        ("logs = []", "logs: "),
        (CONFIG + "auc = -1", "gate.auc: "),
        (CONFIG + "[rollout]\nshares = []", "rollout.shares: "),
        (CONFIG + '[rollout]\nservices = ["ads:8080"]', "rollout.services.0: "),
        (CONFIG + "[refresh]\nchance = 1", "refresh.chance: "),
        ("x", "cannot be read as TOML"),
        (f"x = {'[' * 9_999}", "cannot be read as TOML"),
        (f"x = {'9' * 9_999}", "cannot be read as TOML"),
    ):
        config.write_text(text, "utf-8")
        done = run_msd("nightly", str(config))
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    assert "/dev/null: not a regular file" in run_msd("nightly", "/dev/null").stderr
    assert "leave --night out" in run_msd("nightly", "/dev/null", "--hourly", "--night", "n").stderr


def test_night_whose_clicks_come_before_their_impressions_is_refused(world: World) -> None:
    bundles = world.folder / "bundles"
    served = (bundles / "current").resolve()
    world.serve(12, bundles / "current", COUNT, early_s=3_600)
    early = night(world, "slow-clock")

    assert (early["status"], early["is_accepted"]) == ("kept", False)
    assert "new clicks join no impression" in early["why"][0]
    assert early["counts"]["clicks_before_their_impression"] > 100
    assert (bundles / "current").resolve() == served


def hour(world: World) -> dict[str, Any]:
    """The record of a refresh, whose status is the command's exit status."""
    done = run_msd("nightly", str(world.folder / "nightly.toml"), "--hourly")
    record: dict[str, Any] = json.loads((world.folder / "work/refreshes/refresh.json").read_text())
    assert done.returncode == {"promoted": 0, "kept": 3, "failed": 1}[record["status"]], done.stdout + done.stderr
    return record


def test_refresh_follows_a_drift_within_the_day_and_gives_the_same_bundle_again(world: World) -> None:
    bundles, refreshes = world.folder / "bundles", world.folder / "work/refreshes"
    write_config(world, CONFIG + "\n[refresh]\njudge_minutes = 360\n")
    if (bundles / "current").resolve().name == "first":
        assert "no night here trained" in hour(world)["why"][0]
        world.drift()
        world.serve(14, bundles / "current", COUNT)
        assert night(world, "n4")["status"] == "promoted"
    base = (bundles / "current").resolve()
    world.drift()
    world.serve(15, bundles / "current", COUNT)
    corrections = world.folder / "corrections.json"
    learned = LearnedCorrection(shift=0.1, segments={"known": 0.05}, at=START + 15 * DAY, impressions=900, clicks=90)
    write_corrections(corrections, {open_bundle(base).bundle_id: learned})

    moved = hour(world)
    assert read_corrections(corrections)[moved["bundle_id"]] == learned, "it was fitted under it, and starts with it"
    served = (bundles / "current").resolve()
    assert (moved["status"], moved["base"], served.name) == ("promoted", base.name, moved["name"]), moved["why"]
    old, new = (ScoredBundle(one).score(request_of(world, one)) for one in (base, served))
    assert old is not None
    assert new is not None
    appeal = world.appeal[[0, 1, 2, 3, 4]]
    assert np.corrcoef(old["pctr"], appeal)[0, 1] < 0 < np.corrcoef(new["pctr"], appeal)[0, 1]
    assert hour(world)["status"] == "kept"
    assert (bundles / "current").resolve() == served, "what is learned is not learned again"

    assert run_msd("rollback", str(bundles)).returncode == 0
    assert "an operator returned to this bundle" in hour(world)["why"][0]
    (bundles / "previous").unlink()
    again = hour(world)
    assert (again["bundle_id"], again["half_life_s"]) == (moved["bundle_id"], moved["half_life_s"])
    assert {one.name for one in refreshes.iterdir()} == {"refresh.json", moved["name"]}

    world.serve(16, bundles / "current", 1_200, bots=0.9)
    bots = hour(world)
    assert (bots["status"], (bundles / "current").resolve()) == ("kept", served)
    assert bots["why"][0].startswith("the click rate of the latest impressions is 0.9"), bots["why"]


def request_of(world: World, bundle: Path) -> dict[str, Any]:
    """A logged request for the first five items."""
    ids = [f"i{item}" for item in range(5)]
    body = {"user_id": None, "candidates": {"id": ids}, "context": {"hour": "1"}}
    return {"request_id": "r", "item_ids": ids, "at": 1.7e9, "request": json.dumps(body).encode()}
