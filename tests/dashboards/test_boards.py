"""Dashboards: every query can be read and asks for series that there are; the files are what the code makes."""

import json
from pathlib import Path

import promql_parser
import pytest

from msd.dashboards.board import Board, Panel
from msd.dashboards.boards import BOARDS
from msd.dashboards.command import main
from msd.dashboards.grafana import to_grafana
from tests.dashboards.series import RECORDED, asked_for, family_of, samples_named

FILES = Path(__file__).parents[2] / "helm/msd-ctr/files/dashboards"
PANELS_OF_ALL = [panel for board in BOARDS for panel in board.panels]
PANELS = [pytest.param(panel, id=f"{board.name}: {panel.title}") for board in BOARDS for panel in board.panels]


def filled_in(expr: str) -> str:
    """A query with Grafana's variables replaced."""
    return expr.replace("$__rate_interval", "5m").replace("$namespace", ".*").replace("$job", ".*")


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_asks_for_what_there_is(panel: Panel) -> None:
    assert panel.text.endswith(".")
    for query in panel.queries:
        asked = asked_for(promql_parser.parse(filled_in(query.expr)))
        assert asked or "ALERTS" in query.expr
        assert asked <= samples_named() | RECORDED


@pytest.mark.parametrize("board", BOARDS, ids=[board.name for board in BOARDS])
def test_the_files_are_what_the_code_makes(board: Board) -> None:
    """`msd dashboards helm/msd-ctr/files/dashboards` makes them anew."""
    assert (FILES / f"{board.name}.json").read_text("utf-8") == to_grafana(board)


def test_there_are_no_other_files() -> None:
    assert {path.stem for path in FILES.iterdir()} == {board.name for board in BOARDS}


@pytest.mark.parametrize("board", BOARDS, ids=[board.name for board in BOARDS])
def test_grafana_finds_all_panels_each_in_a_place_of_its_own(board: Board) -> None:
    made = json.loads(to_grafana(board))
    panels = [one for one in made["panels"] if one["type"] != "row"]
    places = [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in panels]

    assert made["uid"] == board.name
    assert [one["title"] for one in panels] == [one.title for one in board.panels]
    assert len(set(places)) == len(places)
    assert all(one["gridPos"]["x"] + one["gridPos"]["w"] <= 24 for one in panels)
    assert [one["expr"] for panel in panels for one in panel["targets"]] == [
        query.expr for panel in board.panels for query in panel.queries
    ]
    assert {one["name"] for one in made["templating"]["list"]} == {"datasource", "namespace", "job"}


def test_every_family_is_on_a_dashboard() -> None:
    shown = {
        family_of(name)
        for panel in PANELS_OF_ALL
        for query in panel.queries
        for name in asked_for(promql_parser.parse(filled_in(query.expr)))
    }

    # Of these other panels tell enough, or, where calibration is corrected, an alert and the runbook.
    unseen = {"msd_lineup_generation", "process_virtual_memory_bytes", "msd_corrections_stale"}
    unseen |= {f"msd_correction_{what}" for what in ("shift", "slope", "timestamp_seconds")}
    assert {family_of(name) for name in samples_named()} - shown == unseen


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(tmp_path / "made")

    assert {path.name for path in (tmp_path / "made").iterdir()} == {f"{board.name}.json" for board in BOARDS}
    assert "msd-service.json" in capsys.readouterr().out
