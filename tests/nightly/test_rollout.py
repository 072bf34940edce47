"""Two services follow a rollout: it grows while a new bundle's clicks hold, and returns by itself if they do not."""

import io
import itertools
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import NormalDist
from typing import Any

import httpx
import numpy as np
import pytest
from rich.console import Console

from msd.contract.bundle import MANIFEST, Bundle
from msd.contract.files import sha256_file
from msd.contract.log import EVENTS, REQUESTS
from msd.demo.service import DemoError
from msd.feedback.arms import Estimate
from msd.feedback.files import FeedbackError
from msd.feedback.gate import Gate, above_zero
from msd.nightly.config import NightlyConfig, NightlyError, RolloutConfig, WindowConfig
from msd.nightly.night import Night
from msd.nightly.record import NightRecord, Status
from msd.nightly.refresh import Refresh
from msd.nightly.rollout import EXPERIMENT, end_rollout, roll_out
from msd.nightly.served import REFRESHES
from msd.nightly.stage import Look, Stage, decided_by, looks_of
from msd.step import fingerprint_of
from tests.scripted_server import Reply, scripted_server
from tests.service.live import live_service

USERS, SHARES = 400, [0.2, 0.5]


class Fleet:
    """Two services of one folder of bundles, `current` and `b2`, and the rollout of `b2`."""

    def __init__(self, folder: Path, urls: list[str]) -> None:
        self.rng = np.random.default_rng(0)
        self.folder, self.urls, self.seen, self.shown = folder, urls, set[tuple[str, ...]](), Counter[str]()
        rollout: dict[str, Any] = {
            "shares": SHARES,
            "hold_minutes": 0.04,
            "most_hours": 0.1,
            "clicks": 8,
            "services": urls,
        }
        self.rollout = RolloutConfig(**rollout)
        self.config = NightlyConfig(
            logs=[str(folder / "logs")],
            dataset=folder,
            work=folder,
            bundles=folder / "bundles",
            window=WindowConfig(settle_hours=0),
            gate=Gate(latency=1_000, calibration=100),
        )

    def run(self, lift: float) -> list[Stage]:
        """Roll out while users click every other time, `lift` times as often at the new bundle's ads."""
        with ThreadPoolExecutor(1) as thread, ExitStack() as stack:
            clients = [
                stack.enter_context(httpx.Client(base_url=url, trust_env=False, timeout=60)) for url in self.urls
            ]
            stages = thread.submit(roll_out, self.config, self.rollout, self.folder, "b2")
            for number in itertools.count():
                if stages.done():
                    return stages.result()
                self._visit(clients[number % 2], number, lift)
        raise AssertionError("unreachable")

    def _visit(self, client: httpx.Client, number: int, lift: float) -> None:
        ids = [f"i{place}" for place in self.rng.choice(300, 5, replace=False)]
        user = f"u{self.rng.integers(USERS)}"
        reply = client.post("/v1/score", json={"user_id": user, "candidates": {"id": ids}}).json()
        arm = reply.get("arm", "")
        self.shown[arm] += 1
        rate = 0.5 * (lift if arm == "new" else 1.0)
        is_clicked = self.shown[arm] * rate % 1 < rate  # evenly: nothing is left to chance
        event = {"user_id": user, "item_id": ids[0], "request_id": reply["request_id"], "at": time.time()}
        event["event_id"] = f"{lift}-{number}"
        kinds = ("impression", "click")[: 1 + is_clicked]
        client.post("/v1/events", json={"events": [{**event, "type": kind} for kind in kinds]}).raise_for_status()
        if number % 4 < 2:
            lineup = client.get("/v1/model").json()["lineup"]
            self.seen.add(tuple(f"{arm['name']} {arm['share']:.1f}" for arm in lineup["arms"]))


@contextmanager
def fleet(old: Path, new: Path, folder: Path) -> Iterator[Fleet]:
    bundles = folder / "bundles"
    for name, bundle in (("b1", old), ("b2", new)):
        shutil.copytree(bundle, bundles / name)
    (bundles / "current").symlink_to("b1")
    settings: dict[str, Any] = {"log_sample": 1, "LOG_FLUSH_S": 1.0, "live": "on"}
    with ExitStack() as stack:
        urls = []
        for pod in "ab":
            (folder / pod).mkdir()
            own: dict[str, Any] = {"log_dir": folder / "logs" / pod, "state_dir": folder / pod / "state"}
            service = stack.enter_context(live_service(bundles, folder / pod, **settings, **own))
            urls.append(service.url)
        yield Fleet(folder, urls)


def test_share_returns_by_itself_or_grows_to_the_end(bundle: Bundle, other_bundle: Bundle, tmp_path: Path) -> None:
    with fleet(bundle.folder, other_bundle.folder, tmp_path) as services:
        worse = services.run(lift=0.2)
        assert [stage.share for stage in worse] == SHARES[:1]
        failed = {check.name for check in worse[0].checks if check.outcome == "fails"}
        assert failed == {"gain of clicks per request"}
        assert worse[0].earns_less
        assert worse[0].arms["new"]["clicks"] >= 8, "evidence is kept"
        assert not (services.config.bundles / EXPERIMENT).exists()

        (tmp_path / "rollout.json").unlink()
        good = services.run(lift=1.6)
        assert [(stage.share, stage.decision) for stage in good] == [(share, "grow") for share in SHARES], good
        assert {("champion 0.8", "new 0.2"), ("champion 0.5", "new 0.5")} <= services.seen
        assert services.run(lift=1.6) == good, "a stage is done once"
        end_rollout(services.config)
        assert not (services.config.bundles / EXPERIMENT).exists()


def test_refused_bundle_and_other_experiment_end_a_rollout(bundle: Bundle, copied_bundle: Path, tmp_path: Path) -> None:
    (copied_bundle / MANIFEST).write_bytes(b"{}")
    with fleet(bundle.folder, copied_bundle, tmp_path) as services:
        (stage,) = services.run(lift=1.0)
        assert [check.name for check in stage.checks if not check.holds][0] == "services that refuse the new bundle"

        other = services.config.bundles / EXPERIMENT
        for text in ('{"salt": "ours"}', "{", "[]"):
            other.write_text(text, "utf-8")
            with pytest.raises(NightlyError, match="another experiment runs"):
                roll_out(services.config, services.rollout, tmp_path, "b2")
            assert other.exists()


def test_services_that_do_not_answer_end_a_rollout(tmp_path: Path) -> None:
    logs, bundles = tmp_path / "logs", tmp_path / "bundles"
    for folder in (logs, bundles / "b2"):
        folder.mkdir(parents=True)
    (bundles / "b2" / MANIFEST).write_text("{}", "utf-8")
    for kind in (REQUESTS, EVENTS):
        (logs / f"{kind}-1.parquet").touch()
        os.utime(logs / f"{kind}-1.parquet", (0, 0))
    config = NightlyConfig(logs=[str(logs)], dataset=tmp_path, work=tmp_path, bundles=bundles)
    with scripted_server(Reply(body=b"msd", length=100)) as server:
        rollout = RolloutConfig(shares=SHARES, hold_minutes=0.001, most_hours=1e-6, services=[server.url])
        (stage,) = roll_out(config, rollout, tmp_path, "b2")
    assert "services that answer: +0, at least 1" in [str(check) for check in stage.checks if not check.holds]


def test_stages_of_another_bundle_or_of_other_shares_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    new = tmp_path / "bundles/b2" / MANIFEST
    new.parent.mkdir(parents=True)
    new.write_text("{}", "utf-8")
    logs = [str(tmp_path / "logs")]
    config = NightlyConfig(logs=logs, dataset=tmp_path, work=tmp_path, bundles=tmp_path / "bundles")
    one = RolloutConfig(shares=SHARES[:1])
    write_stages(tmp_path, new, config, one)
    assert [stage.ended for stage in roll_out(config, one, tmp_path, "b2")] == [2.0]

    rollout = RolloutConfig(shares=SHARES[1:], hold_minutes=0.001, most_hours=1e-6)
    with pytest.raises(FeedbackError, match="holds no log"):  # a new stage reads the logs
        roll_out(config, rollout, tmp_path, "b2")
    new.write_text("{ }", "utf-8")
    with pytest.raises(FeedbackError, match="holds no log"):
        roll_out(config, rollout.model_copy(update={"shares": SHARES[:1]}), tmp_path, "b2")


def write_stages(folder: Path, manifest: Path, config: NightlyConfig, rollout: RolloutConfig) -> None:
    """What a night knows of a stage that held."""
    stages = [{"share": rollout.shares[0], "began": 1.0, "ended": 2.0, "decision": "grow"}]
    mark = fingerprint_of(sha256_file(manifest), rollout.model_dump(), config.bounds)
    (folder / "rollout.json").write_text(json.dumps({"rollout": mark, "stages": stages}), "utf-8")


def test_share_returns_if_the_pointer_cannot_be_moved(tmp_path: Path) -> None:
    bundles, folder = tmp_path / "bundles", tmp_path / "nights/n"
    for place in (bundles / "current/no-link", folder / "bundle"):
        place.mkdir(parents=True)
    (folder / "bundle" / MANIFEST).write_text("{}", "utf-8")
    (bundles / EXPERIMENT).write_text(json.dumps({"salt": "rollout-n"}), "utf-8")
    rollout = RolloutConfig(shares=[0.5])
    config = NightlyConfig(logs=["x"], dataset=tmp_path, work=tmp_path, bundles=bundles, rollout=rollout)
    write_stages(folder, folder / "bundle" / MANIFEST, config, rollout)
    with pytest.raises(DemoError, match="rollback"):
        Night(config, "n", Console(file=io.StringIO()))._publish()
    assert not (bundles / EXPERIMENT).exists()


def test_night_whose_bundle_earned_less_is_left_out_and_undecided_one_is_not(tmp_path: Path) -> None:
    config = NightlyConfig(logs=["x"], dataset=tmp_path, work=tmp_path, bundles=tmp_path)
    for low, high, is_accepted in ((-0.3, -0.1, False), (-0.3, 0.1, True)):
        gain = above_zero("gain of revenue per request", Estimate(-0.1, (low, high)))
        night = Night(config, "n", Console(file=io.StringIO()))
        night.record.is_accepted = True
        night._leave_out(Stage(share=0.5, checks=[gain], decision="stop"))
        assert (night.record.is_accepted, not night.record.notes) == (is_accepted, is_accepted)


def test_kept_night_is_judged_anew_by_another_gate_while_its_bundle_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = NightlyConfig(logs=["x"], dataset=tmp_path, work=tmp_path, bundles=tmp_path)

    def is_judged_anew(status: Status, bounds: str) -> bool:
        known = NightRecord(night="n", status=status, bounds=bounds, verdict={})
        return Night(config, "n", Console())._is_judged_anew(known)

    bundle, before = tmp_path / "nights/n/bundle" / MANIFEST, config.bounds
    bundle.parent.mkdir(parents=True)
    bundle.touch()
    assert not is_judged_anew("kept", before)
    monkeypatch.setattr("msd.nightly.config.REVISION", 0)
    assert (is_judged_anew("kept", before), is_judged_anew("promoted", before)) == (True, False)
    bundle.unlink()
    assert not is_judged_anew("kept", before)


def test_refresh_that_cannot_publish_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = NightlyConfig(logs=["x"], dataset=tmp_path, work=tmp_path, bundles=tmp_path)

    def publish(refresh: Refresh) -> None:
        (tmp_path / REFRESHES).mkdir()
        refresh.record.status = "promoted"  # as its own folder says, before a pointer moves
        raise DemoError("no pointer")

    monkeypatch.setattr(Refresh, "_run", publish)
    Refresh(config, Console(file=io.StringIO())).run()
    written = json.loads((tmp_path / REFRESHES / "refresh.json").read_bytes())
    assert (written["status"], written["why"]) == ("failed", ["DemoError: no pointer"])


def test_pointer_may_be_a_link_or_a_file(tmp_path: Path) -> None:
    config = NightlyConfig(logs=["x"], dataset=tmp_path, work=tmp_path, bundles=tmp_path)
    (tmp_path / "b1").mkdir()
    (tmp_path / "current").write_text("b1\n", "utf-8")
    with pytest.raises(NightlyError, match="leads to no bundle"):
        config.served()
    (tmp_path / "b1" / MANIFEST).touch()
    of_file = config.served()
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("b1")
    assert of_file == config.served() == (tmp_path / "b1").resolve()


def test_looks_double_and_spend_the_chance_as_time_passes() -> None:
    rollout = RolloutConfig(hold_minutes=60, most_hours=24, chance=0.024)
    looks = looks_of(rollout)

    assert [look.after_s / 3_600 for look in looks] == [1, 2, 4, 8, 16, 24]
    spent = [1 - NormalDist().cdf(look.z) for look in looks]
    assert spent == pytest.approx([0.001, 0.001, 0.002, 0.004, 0.008, 0.008])
    assert [look.is_last for look in looks] == 5 * [False] + [True]


@pytest.mark.parametrize(
    ("gained", "decides", "is_last", "decision"),
    [
        ((0.1, 0.3), True, False, "grow"),
        ((-0.1, 0.3), True, False, "continue"),
        ((-0.1, 0.3), True, True, "stop"),
        ((-0.1, 0.3), False, False, "grow"),
        ((-0.3, -0.1), False, False, "stop"),
    ],
)
def test_last_stage_goes_on_until_revenue_is_sure(
    gained: tuple[float, float], decides: bool, is_last: bool, decision: str
) -> None:
    gain = above_zero("gain of revenue per request", Estimate(sum(gained) / 2, gained))
    assert decided_by([gain], Look(1.0, 2.0, is_last), decides) == decision
