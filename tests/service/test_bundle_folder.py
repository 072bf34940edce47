"""Pointers, names, experiments: what they lead to, and what is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from msd.__main__ import main
from service.deployment.bundle_folder import (
    CURRENT,
    EXPERIMENT,
    PREVIOUS,
    Experiment,
    SourceError,
    named_bundle,
    point_to,
    read_experiment,
    read_pointer,
    remove_experiment,
    roll_back,
    write_experiment,
)
from service.deployment.source import Source, Wanted, WantedArm
from service.settings import Settings

EXAMPLE: dict[str, Any] = {
    "salt": "2026-11",
    "arms": [{"name": "champion", "bundle": "current", "weight": 9}, {"name": "next", "bundle": "b", "weight": 1}],
    "shadow": [{"name": "dark", "bundle": "c"}],
}


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """A folder with what looks like bundles from the outside, `a` the current one."""
    folder = tmp_path / "bundles"
    for name in ("a", "b", "c"):
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text("{}")
    (folder / CURRENT).symlink_to("a")
    return folder


def wanted(place: Path) -> Wanted:
    return Source(Settings(bundle=place)).wanted()


def alone(folder: Path) -> Wanted:
    return Wanted((WantedArm("champion", folder),))


def test_place_leads_to_its_bundle(bundles: Path, tmp_path: Path) -> None:
    (bundles / "written").write_text("b\n")
    (tmp_path / "link").symlink_to(bundles / "c")

    assert wanted(bundles) == alone(bundles / "a")
    assert wanted(bundles / "b") == alone(bundles / "b")
    assert wanted(bundles / CURRENT) == alone(bundles / "a")
    assert wanted(bundles / "written") == alone(bundles / "b")
    assert wanted(tmp_path / "link") == alone(bundles / "c")


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/../a", "/etc", "a\0", ".a", "x" * 200, "a b", CURRENT])
def test_invalid_bundle_name_is_refused(bundles: Path, name: str) -> None:
    with pytest.raises(SourceError, match="is not the name of a bundle"):
        named_bundle(bundles, name)


def test_name_that_leads_out_of_the_folder_is_refused(bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "manifest.json").write_text("{}")
    (bundles / "out").symlink_to(tmp_path / "outside")

    with pytest.raises(SourceError, match="leads out of the folder"):
        named_bundle(bundles, "out")
    with pytest.raises(SourceError, match="has no bundle 'nowhere'"):
        named_bundle(bundles, "nowhere")


@pytest.mark.parametrize("written", [b"", b"nowhere", b"\xff", b"..", b"a\nb", b"x" * 10_000])
def test_pointer_that_leads_nowhere_is_refused(bundles: Path, written: bytes) -> None:
    (bundles / CURRENT).unlink()
    (bundles / CURRENT).write_bytes(written)

    with pytest.raises(SourceError, match="current: is a|has no bundle"):
        read_pointer(bundles / CURRENT)


def test_rolling_back_and_forth(bundles: Path) -> None:
    with pytest.raises(SourceError, match="no pointer `previous`"):
        roll_back(bundles)
    point_to(bundles, "b")
    assert os.readlink(bundles / PREVIOUS) == "a"
    assert (roll_back(bundles), roll_back(bundles), roll_back(bundles)) == ("a", "b", "a")
    assert wanted(bundles) == alone(bundles / "a")
    (bundles / "b" / "manifest.json").unlink()
    with pytest.raises(SourceError, match="leads to b"):
        roll_back(bundles)


def test_rollback_command_points_and_returns(bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("--to", "c"), ()):
        with pytest.raises(SystemExit) as ended:
            main(["rollback", str(bundles), *arguments])
        assert ended.value.code == 0
    assert capsys.readouterr().out == f"{bundles / CURRENT} leads to c\n{bundles / CURRENT} leads to a\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "give a folder of bundles, or --redis"),
        (("none",), "not a folder of bundles"),
        (("bundles", "--to", "../x"), "is not the name of a bundle"),
        (("bundles", "--redis", "redis://localhost"), "not both"),
    ],
)
def test_invalid_rollback_is_refused(
    bundles: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MSD_REDIS_URL", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["rollback", *arguments])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err.replace("\n", " ")
    assert wanted(bundles) == alone(bundles / "a")


def test_experiment_names_its_bundles(bundles: Path) -> None:
    experiment = Experiment.model_validate(EXAMPLE)
    write_experiment(bundles, experiment)

    assert read_experiment(bundles) == experiment
    arms = (WantedArm("champion", bundles / "a", 9.0), WantedArm("next", bundles / "b", 1.0))
    assert wanted(bundles) == Wanted(arms, "2026-11", (WantedArm("dark", bundles / "c"),))
    point_to(bundles, "c")
    assert wanted(bundles).arms[0].folder == bundles / "c"
    remove_experiment(bundles)
    assert wanted(bundles) == alone(bundles / "c")


def _arm(**changes: object) -> dict[str, object]:
    return {**EXAMPLE["arms"][0], **changes}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"salt": ""}, "salt: "),
        ({"salt": 5}, "salt: "),
        ({"arms": []}, "arms: "),
        ({"arms": [_arm(name=f"n{number}") for number in range(9)]}, "arms: "),
        ({"arms": [_arm(), _arm()]}, "the name 'champion' occurs twice"),
        ({"shadow": [{"name": "champion", "bundle": "c"}]}, "the name 'champion' occurs twice"),
        ({"shadow": [{"name": "x", "bundle": "out"}]}, "leads out of the folder"),
        ({"arms": [_arm(weight=0)]}, "all weights are 0"),
        ({"arms": [_arm(weight=-1)]}, "arms.0.weight: "),
        ({"arms": [_arm(weight=float("nan"))]}, "arms.0.weight: "),
        ({"arms": [_arm(weight="1")]}, "arms.0.weight: "),
        ({"arms": [_arm(bundle="../a")]}, "arms.0.bundle: "),
        ({"arms": [_arm(name="a\nb")]}, "arms.0.name: "),
        ({"arms": [_arm(colour="red")]}, "arms.0.colour: "),
        ({"seed": 1}, "seed: "),
        (b"\xff", "Invalid JSON"),
        (b" " * 70_000, "larger than 65536 bytes"),
    ],
)
def test_invalid_experiment_is_refused(bundles: Path, change: bytes | dict[str, object], reason: str) -> None:
    (bundles / "out").symlink_to("/")
    document = change if isinstance(change, bytes) else json.dumps({**EXAMPLE, **change}).encode()
    (bundles / EXPERIMENT).write_bytes(document)

    with pytest.raises(SourceError) as refused:
        wanted(bundles)
    assert reason in str(refused.value)
    assert str(bundles) in str(refused.value)
