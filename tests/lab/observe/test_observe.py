"""The live run's parts: the ad server of many moods against a real service, what counts as empty, and the drawings.

Prometheus itself is not there on every machine: `make observe` runs all of it.
"""

import io
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from lab.observe.ad_server import SimulatedAdServer
from lab.observe.found import PanelCurve, Shown
from lab.observe.live import Watched
from lab.observe.pictures import picture
from lab.observe.prometheus import Prometheus, PrometheusError, prometheus
from loadtest.processes import ProcessError
from loadtest.traffic import Traffic
from msd.__main__ import main
from msd.contract.bundle import Bundle
from msd.dashboards.board import lines
from msd.dashboards.store_board import STORE
from msd.free_port import free_port
from tests.service.live import LiveService, live_service, wait_until

PANEL = lines("A panel", "It shows something.", "short", ("up", "{{job}}"))


def test_an_ad_server_makes_mistakes_and_tells_what_was_shown(bundle: Bundle, tmp_path: Path) -> None:
    bodies = list(islice(Traffic(bundle.folder, 4, seed=1).bodies(), 20))
    (tmp_path / "state").mkdir()
    with live_service(bundle.folder, tmp_path, live="on", state_dir=tmp_path / "state") as service:
        ads = SimulatedAdServer(service.url, bodies)
        with ads.asking():
            wait_until(lambda: all(ads.statuses[status] for status in (200, 202, 422)))
            wait_until(lambda: service.metric('msd_events_total{outcome="duplicate"}') > 0)
            wait_until(lambda: service.metric('msd_degraded_total{rung="unknown",side="user"}') > 0)
        assert service.metric('msd_events_noted_total{what="ahead"}') == 0
        assert set(ads.statuses) == {200, 202, 422}


def test_a_panel_that_shows_nothing_is_wrong_unless_it_says_why() -> None:
    assert Shown("board", "title", (), PANEL).is_wrongly_empty
    assert Shown("recording rules", "title", ()).is_wrongly_empty
    assert not Shown("board", "title", (), replace(PANEL, may_be_empty="nobody is ill")).is_wrongly_empty

    shown = Shown("board", "title", (PanelCurve("a", ((1.0, 0.0), (2.0, 3.0))), PanelCurve("b", ((1.0, 1.0),))), PANEL)
    assert (shown.points, shown.highest, shown.is_wrongly_empty) == (3, 3.0, False)


def test_a_dashboard_is_drawn_whatever_its_panels_show() -> None:
    curve = PanelCurve("a name", tuple((1000.0 + second, float(second % 7)) for second in range(60)))
    found = [Shown(STORE.name, one.title, (curve,) * (place % 3), one) for place, one in enumerate(STORE.panels)]
    run = Watched(Prometheus("http://127.0.0.1:9"), 1000.0, 1060.0, ((1010.0, "something"),))

    with Image.open(io.BytesIO(picture(STORE, found, run))) as drawn:
        assert drawn.width >= 1000


def test_without_prometheus_it_is_said_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(PrometheusError, match="apt install prometheus"), prometheus(tmp_path, "http://h:1", tmp_path):
        pass


def test_a_prometheus_that_ends_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "prometheus"
    program.write_text(f"#!{sys.executable}\nraise SystemExit('no rules today')\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ProcessError, match="no rules today"), prometheus(tmp_path, "http://h:1", tmp_path):
        pass


def test_a_prometheus_that_is_not_there_is_an_error() -> None:
    with pytest.raises(PrometheusError, match="does not answer"):
        Prometheus(f"http://127.0.0.1:{free_port()}").series("up", 0.0, 1.0)


def test_a_service_that_is_no_prometheus_refuses(service: LiveService) -> None:
    with pytest.raises(PrometheusError, match=r"refuses 'up'.*not_found"):
        Prometheus(service.url).series("up", time.time() - 1, time.time())


def test_what_is_no_bundle_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    with pytest.raises(SystemExit) as ended:
        main(["observe", str(bundle.folder), str(tmp_path / "none"), "--out", str(tmp_path / "out")])

    assert ended.value.code == 2
    assert "is not a bundle" in capsys.readouterr().err
