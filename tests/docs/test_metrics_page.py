"""docs/metrics.md has a row for each family that the code declares: its name, type, labels, and the values of these."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client.metrics_core import Metric

from service.telemetry.metrics import Metrics

PAGE = Path(__file__).parents[2] / "docs/metrics.md"


class Family(NamedTuple):
    """A family as it is declared, or documented. Labels without values are open."""

    name: str
    kind: str
    labels: dict[str, list[str]]


def declared() -> Iterator[Family]:
    """All that the service exposes."""
    # A family without a sample does not tell its labels; its collector does.
    for collector in Metrics().families._collector_to_names:
        labels = getattr(collector, "_labelnames", ())
        for family in collector.collect():
            name = family.name + "_total" * (family.type == "counter")
            yield Family(name, family.type, labels_of(family, labels))


def labels_of(family: Metric, labels: Iterable[str]) -> dict[str, list[str]]:
    """The values of each label that exist from the start."""
    found: dict[str, list[str]] = {name: [] for name in labels}
    for sample in family.samples:
        for name, values in found.items():
            if sample.labels[name] not in values:
                values.append(sample.labels[name])
    return found


def documented(text: str) -> Iterator[Family]:
    """The rows of the page's tables."""
    for line in text.splitlines():
        if line.startswith("| `"):
            name, kind, labels, *texts = (cell.strip() for cell in line.strip("|").split("|"))
            assert len(texts) == 2, name
            assert all(texts), name
            yield Family(name.strip("`"), kind, dict(map(label_of, labels.split(";") if labels != "–" else ())))


def label_of(cell: str) -> tuple[str, list[str]]:
    """A label and its values, if they are a closed set."""
    name, _, values = cell.strip().partition("`:")
    return name.strip("`"), [value.strip() for value in values.split(",")] if values else []


def test_every_family_has_one_row_and_no_other_has() -> None:
    rows = list(documented(PAGE.read_text("utf-8")))

    assert sorted(rows, key=str) == sorted(declared(), key=str)
    assert len(rows) > 50
    (row,) = documented("| `msd_x_total` | counter | `by`: a, b; `feature` | something | look |")
    assert row == Family("msd_x_total", "counter", {"by": ["a", "b"], "feature": []})
