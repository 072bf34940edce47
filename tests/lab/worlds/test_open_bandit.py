"""Open Bandit's samples out of a wheel of the same layout, made here with policies whose rates are known."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lab.worlds.open_bandit import judge_open_bandit
from msd.contract.files import sha256_file
from msd.dataset.problem import ArchiveError
from msd.dataset.samples import CAMPAIGNS
from tests.service.live import run_msd

ITEMS, ROWS = 10, 20_000
RATES = np.linspace(0.01, 0.10, ITEMS)


def make_wheel(folder: Path) -> Path:
    """Half of what the uniform policy's log shows is what the other policy shows twice as often or more."""
    path, rng = folder / "obp-0.4.1-py3-none-any.whl", np.random.default_rng(0)
    policies = {"random": np.full(ITEMS, 1 / ITEMS), "bts": RATES / RATES.sum()}
    with zipfile.ZipFile(path, "w") as archive:
        for campaign in CAMPAIGNS:
            for policy, shares in policies.items():
                items = rng.choice(ITEMS, ROWS, p=shares)
                clicks = rng.random(ROWS) < RATES[items]
                lines = [",timestamp,item_id,position,click,propensity_score"]
                lines += [
                    f"{n},,{i},1,{int(c)},{shares[i]}" for n, (i, c) in enumerate(zip(items, clicks, strict=True))
                ]
                inside = f"obp/dataset/obd/{policy}/{campaign}"
                archive.writestr(f"{inside}/{campaign}.csv", "\n".join(lines))
                contexts = [",item_id,item_feature_0", *(f"{item},{item},0.5" for item in range(ITEMS))]
                archive.writestr(f"{inside}/item_context.csv", "\n".join(contexts))
    return path


def test_estimates_find_the_uniform_rate(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    judged = judge_open_bandit(wheel, sha256_file(wheel))
    assert [one.campaign for one in judged] == list(CAMPAIGNS)
    for one in judged:
        low, high = one.truth.ci95
        assert low < 1_000 * RATES.mean() < high
        assert one.found.logged.value > high
        for found in (one.found.ips, one.found.snips, one.found.dr):
            assert found.value == pytest.approx(1_000 * RATES.mean(), abs=8)
        assert one.largest == pytest.approx(5.5)
        assert one.effective < ROWS
        json.dumps(one.figures(), allow_nan=False)


def test_other_wheel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"expected SHA-256 87dec9ca.*; it is not used"):
        judge_open_bandit(make_wheel(tmp_path))
    with pytest.raises(ArchiveError, match="there is no such file"):
        judge_open_bandit(tmp_path / "no.whl")


def test_command_prints_estimates_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path)
    monkeypatch.setattr("lab.worlds.open_bandit.judge_open_bandit.__defaults__", (None, sha256_file(wheel)))
    done = run_msd("lab", "worlds", "open-bandit", "--open-bandit", str(wheel), "--out", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    assert "effective rows" in done.stdout
    found = json.loads((tmp_path / "runs" / "worlds.json").read_text("utf-8"))
    assert found["worlds"] == {}
    assert [one["campaign"] for one in found["estimators"]] == list(CAMPAIGNS)
