"""Parts of the live run: the simulated ad server against a real service, and errors of Prometheus.

`make observe` runs all of it, with a real Prometheus.
"""

import time
from itertools import islice
from pathlib import Path

import pytest

from lab.observe.ad_server import SimulatedAdServer
from lab.observe.live import watched
from lab.observe.prometheus import Prometheus, PrometheusError, prometheus
from loadtest.traffic import Traffic
from msd.contract.bundle import Bundle
from msd.contract.errors import MsdError
from msd.free_port import free_port
from tests.service.live import LiveService, live_service, wait_until


def test_ad_server_sends_valid_and_invalid_requests_and_events(bundle: Bundle, tmp_path: Path) -> None:
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


def test_missing_and_foreign_prometheus_are_errors(
    service: LiveService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PrometheusError, match="does not answer"):
        Prometheus(f"http://127.0.0.1:{free_port()}").series("up", 0.0, 1.0)
    with pytest.raises(PrometheusError, match=r"refuses 'up'.*not_found"):
        Prometheus(service.url).series("up", time.time() - 1, time.time())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PrometheusError, match="apt install prometheus"), prometheus(tmp_path, "http://h:1", tmp_path):
        pass


def test_missing_bundle_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    with (
        pytest.raises(MsdError, match="is not a bundle"),
        watched(bundle.folder, tmp_path / "none", tmp_path, tmp_path / "out", 60.0),
    ):
        pass
