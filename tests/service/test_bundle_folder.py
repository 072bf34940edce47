"""Pointers, names, experiments: what they lead to, and what is refused."""

import json
import os
from collections.abc import Callable
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


def test_every_way_to_a_bundle(bundles: Path, tmp_path: Path) -> None:
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
    write_experiment(bundles, Experiment.model_validate({**EXAMPLE, "shadow": [{"name": "x", "bundle": "out"}]}))
    with pytest.raises(SourceError, match="leads out of the folder"):
        wanted(bundles)


@pytest.mark.parametrize("written", [b"", b"nowhere", b"\xff", b"..", b"a\nb", b"x" * 10_000])
def test_pointer_that_leads_nowhere_is_refused(bundles: Path, written: bytes) -> None:
    (bundles / CURRENT).unlink()
    (bundles / CURRENT).write_bytes(written)

    with pytest.raises(SourceError):
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


def test_command(bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("--to", "c"), ()):
        with pytest.raises(SystemExit) as ended:
            main(["rollback", str(bundles), *arguments])
        assert ended.value.code == 0
    assert capsys.readouterr().out == f"{bundles / CURRENT} leads to c\n{bundles / CURRENT} leads to a\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
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
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MSD_REDIS_URL", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["rollback", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert wanted(bundles) == alone(bundles / "a")


def test_experiment(bundles: Path) -> None:
    (bundles / EXPERIMENT).write_text(json.dumps(EXAMPLE))

    arms = (WantedArm("champion", bundles / "a", 9.0), WantedArm("next", bundles / "b", 1.0))
    assert wanted(bundles) == Wanted(arms, "2026-11", (WantedArm("dark", bundles / "c"),))
    point_to(bundles, "c")
    assert wanted(bundles).arms[0].folder == bundles / "c"
    remove_experiment(bundles)
    assert wanted(bundles) == alone(bundles / "c")


def test_experiment_is_read_as_it_was_written(bundles: Path) -> None:
    experiment = Experiment.model_validate(EXAMPLE)
    write_experiment(bundles, experiment)

    assert read_experiment(bundles) == experiment


def _with(**changes: object) -> Callable[[], bytes]:
    return lambda: json.dumps({**EXAMPLE, **changes}).encode()


def _arm(**changes: object) -> dict[str, object]:
    return {**EXAMPLE["arms"][0], **changes}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (lambda: b"{", "Invalid JSON"),
        (lambda: b"\xff", "Invalid JSON"),
        (lambda: b" " * 70_000, "larger than 65536 bytes"),
        (_with(salt=""), "salt: "),
        (_with(salt=5), "salt: "),
        (_with(arms=[]), "arms: "),
        (_with(arms=[_arm(name=f"n{number}") for number in range(9)]), "arms: "),
        (_with(arms=[_arm(), _arm()]), "the name 'champion' occurs twice"),
        (_with(shadow=[{"name": "champion", "bundle": "c"}]), "the name 'champion' occurs twice"),
        (_with(arms=[_arm(weight=0)]), "all weights are 0"),
        (_with(arms=[_arm(weight=-1)]), "arms.0.weight: "),
        (_with(arms=[_arm(weight=float("nan"))]), "arms.0.weight: "),
        (_with(arms=[_arm(weight="1")]), "arms.0.weight: "),
        (_with(arms=[_arm(bundle="../a")]), "arms.0.bundle: "),
        (_with(arms=[_arm(name="a\nb")]), "arms.0.name: "),
        (_with(arms=[_arm(colour="red")]), "arms.0.colour: "),
        (_with(seed=1), "seed: "),
    ],
)
def test_invalid_experiment_is_refused(bundles: Path, text: Callable[[], bytes], said: str) -> None:
    (bundles / EXPERIMENT).write_bytes(text())

    with pytest.raises(SourceError) as refused:
        wanted(bundles)
    assert said in str(refused.value)
    assert str(bundles / EXPERIMENT) in str(refused.value)
