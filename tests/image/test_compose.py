"""compose.yaml: what it mounts exists, its commands are the image's, and its services find each other."""

from pathlib import Path
from typing import Any

import typer.main
import yaml

from msd.commands import load
from msd.contract.bundle import open_bundle
from msd.demo.instant import BUNDLE
from tests.image.test_dockerfile import ROOT, stages

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CONTENTS = {name: yaml.safe_load(config["content"]) for name, config in COMPOSE["configs"].items()}


def mounts(service: str) -> dict[str, Path]:
    """The files of the checkout in a container, by their place there; without BUNDLE in the environment."""
    volumes = (volume.replace("${BUNDLE:-./", "./").replace("}", "") for volume in SERVICES[service]["volumes"])
    return {place: ROOT / source for source, place, _ in (volume.split(":") for volume in volumes)}


def test_services_run_commands_on_the_instant_bundle() -> None:
    for name in ("publish", "service"):
        command, *words = SERVICES[name]["command"]
        assert command == {"service": "serve"}.get(name, name)
        typer.main.get_command(load(command)).make_context(command, list(words))
        assert "redis://redis:6379/0" in words
        assert mounts(name) == {"/bundle": BUNDLE}
    assert open_bundle(BUNDLE).manifest.model_version.startswith("invented-ads")


def test_prometheus_scrapes_the_service_and_loads_the_charts_rules() -> None:
    prometheus = CONTENTS["prometheus"]
    host, port = prometheus["scrape_configs"][0]["static_configs"][0]["targets"][0].split(":")

    assert host in SERVICES
    assert SERVICES[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"EXPOSE {port}" in stages()["runtime"][1]
    assert set(prometheus["rule_files"]) == set(mounts("prometheus"))
    assert all(path.is_file() for path in mounts("prometheus").values())


def test_grafana_asks_prometheus_and_shows_the_charts_dashboards() -> None:
    host, port = CONTENTS["datasource"]["datasources"][0]["url"].removeprefix("http://").split(":")
    (provider,) = CONTENTS["dashboards"]["providers"]

    assert SERVICES[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert list(mounts("grafana")[provider["options"]["path"]].glob("*.json"))


def test_names_that_services_refer_to_exist() -> None:
    used = {config["source"] for service in SERVICES.values() for config in service.get("configs", ())}

    assert used == set(CONTENTS)
    assert {name for service in SERVICES.values() for name in service.get("depends_on", ())} < set(SERVICES)
    assert all(
        published.startswith("127.0.0.1:") for service in SERVICES.values() for published in service.get("ports", ())
    )
