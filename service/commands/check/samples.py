"""Samples of an exposition in Prometheus's text format, summed over labels."""

from collections.abc import Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

_Key = tuple[str, tuple[tuple[str, str], ...]]


class Samples(NamedTuple):
    """Values by name and labels."""

    values: Mapping[_Key, float]

    def total(self, name: str) -> float:
        """The sum over all labels; 0 where there is none."""
        return sum(value for (one, _), value in self.values.items() if one == name)

    def buckets(self, name: str, later: "Samples") -> list[str]:
        """Between which bounds values came until the later samples, e.g. `51 to 100`."""
        found, below, lower = [], 0.0, "0"
        for (one, labels), value in later.values.items():
            if one != f"{name}_bucket":
                continue
            upper = dict(labels)["le"].removesuffix(".0")
            here = value - self.values.get((one, labels), 0.0)
            if here > below:
                found.append(f"over {lower} to {upper}")
            below, lower = here, upper
        return found


def read_samples(text: str) -> Samples:
    """Those of a whole exposition."""
    return Samples(
        {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    )
