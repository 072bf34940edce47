"""A Prometheus server within a block, and its HTTP API. Knows nothing about what it scrapes."""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from loadtest.http_client import ClientError, ServiceConnection, wait_until
from loadtest.processes import Running, Service
from msd.contract.errors import MsdError

_SCRAPED_WITHIN_S = 30.0
_QUOTED = 500


class PrometheusError(MsdError):
    """Prometheus is not installed, does not start, or rejects a query."""


class Series(NamedTuple):
    """A series: labels, points of Unix seconds and value, without NaN, and the legend in a panel."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]
    legend: str = ""


@dataclass(frozen=True)
class Prometheus:
    """A running server at `url`."""

    url: str

    def series(self, expr: str, start: float, end: float) -> list[Series]:
        """Return an expression's series in a time range. Raises PrometheusError if it is invalid."""
        found = []
        for series in self._ask("query_range", query=expr, start=str(start), end=str(end), step="1")["result"]:
            points = ((at, float(text)) for at, text in series["values"])
            found.append(Series(series["metric"], tuple(point for point in points if math.isfinite(point[1]))))
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Return recording rules and alerts with their state."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def up(self) -> bool:
        """Return whether the service is scraped."""
        return [target["health"] for target in self._ask("targets", state="active")["activeTargets"]] == ["up"]

    def _ask(self, what: str, **parameters: str) -> Any:  # noqa: ANN401 - as the API has it
        try:
            with ServiceConnection(self.url, timeout=30.0) as client:
                reply = client.get(f"/api/v1/{what}?{urlencode(parameters)}")
        except ClientError as error:
            raise PrometheusError(f"{self.url}: Prometheus does not answer: {error}") from error
        if reply.status >= 400:
            answer = reply.body[:_QUOTED].decode(errors="replace").strip()
            raise PrometheusError(f"Prometheus refuses {parameters.get('query', what)!r}: {answer}")
        return json.loads(reply.body)["data"]


@contextmanager
def prometheus(folder: Path, scraped: str, rules: Path) -> Iterator[Prometheus]:
    """Run a server that scrapes a service and evaluates rules, with its data and log in `folder`. Raises MsdError if it
    is unavailable."""
    program = shutil.which("prometheus")
    if program is None:
        raise PrometheusError("prometheus is not installed: apt install prometheus, or https://prometheus.io/download")
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "2s"},
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
