"""A Prometheus server within a block, and its HTTP API. Knows nothing about what it scrapes."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from loadtest.http_client import ClientError, ServiceConnection, wait_until
from loadtest.processes import Running, Service
from msd.contract.errors import MsdError

_SCRAPED_WITHIN_S = 30.0
_QUOTED = 500
_SCRAPE_S, _EVALUATE_S = 1, 2


class PrometheusError(MsdError):
    """Prometheus is not installed, does not start, or rejects a query."""


class Series(NamedTuple):
    """A series: labels, and points of Unix seconds and value, without NaN."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]


class Prometheus:
    """A running server at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def series(self, expr: str, start: float, end: float, step_s: float = 1.0) -> list[Series]:
        """Return an expression's series in a time range. Raises PrometheusError if it is invalid."""
        asked = {"query": expr, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step_s:g}"}
        found = self._ask("query_range", asked)["result"]
        return [
            Series(
                one["metric"], tuple((at, number) for at, text in one["values"] if math.isfinite(number := float(text)))
            )
            for one in found
        ]

    def rules(self) -> list[dict[str, Any]]:
        """Return recording rules and alerts with their state."""
        return [rule for group in self._ask("rules", {})["groups"] for rule in group["rules"]]

    def up(self) -> bool:
        """Return whether all targets answer."""
        targets = self._ask("targets", {"state": "active"})["activeTargets"]
        return bool(targets) and all(one["health"] == "up" for one in targets)

    def _ask(self, what: str, parameters: Mapping[str, str]) -> Any:  # noqa: ANN401 - as the API has it
        try:
            with ServiceConnection(self.url, timeout=30.0) as client:
                reply = client.get(f"/api/v1/{what}?{urlencode(parameters)}")
            if reply.status >= 400:
                said = reply.body[:_QUOTED].decode(errors="replace").strip()
                raise PrometheusError(f"Prometheus refuses {parameters.get('query', what)!r}: {said}")
            return json.loads(reply.body)["data"]
        except (ClientError, ValueError) as error:
            raise PrometheusError(f"{self.url}: Prometheus does not answer: {error}") from error


@contextmanager
def prometheus(folder: Path, scraped: str, rules: Path) -> Iterator[Prometheus]:
    """Run a server that scrapes a service and evaluates rules, with its data and log in `folder`. Raises MsdError if it
    is unavailable."""
    program = shutil.which("prometheus")
    if program is None:
        raise PrometheusError("prometheus is not installed: apt install prometheus, or https://prometheus.io/download")
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "global": {"scrape_interval": f"{_SCRAPE_S}s", "evaluation_interval": f"{_EVALUATE_S}s"},
        "rule_files": [str(rules.absolute())],
        "scrape_configs": [{"job_name": "msd-ctr", "static_configs": [{"targets": [urlsplit(scraped).netloc]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML, too
    command = (
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    )
    with Running(Service("prometheus", command, {}, "/-/ready"), folder) as running:
        server = Prometheus(running.url)
        wait_until("Prometheus scrapes", server.up, _SCRAPED_WITHIN_S, PrometheusError)
        yield server
