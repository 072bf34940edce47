"""Report of the pass: what it did to each node, and why it left others."""

from dataclasses import dataclass
from typing import Any

from model_export.factorise.rule import Rule


@dataclass(frozen=True)
class NodeReport:
    """One node or output of the plain graph: the rules applied to it, and the reason if it was copied."""

    node: str
    operator: str
    rules: tuple[Rule, ...] = ()
    left: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object with `rules`, `left` or both."""
        said: dict[str, Any] = {"node": self.node, "operator": self.operator}
        said |= {"rules": [rule.value for rule in self.rules]} if self.rules else {}
        return said | ({"left": self.left} if self.left else {})


@dataclass(frozen=True)
class Report:
    """Nodes that were split or left, in the order of the plain graph; the others needed neither."""

    entries: tuple[NodeReport, ...]
    nodes_before: int
    nodes_after: int
    copied_table_bytes: int
    """Bytes by which joined tables enlarge the graph."""

    @property
    def used(self) -> dict[Rule, int]:
        """Number of nodes split by each rule."""
        split = [rule for entry in self.entries for rule in entry.rules]
        return {rule: split.count(rule) for rule in Rule if rule in split}

    def as_json(self) -> dict[str, Any]:
        """Return the whole report, for `--explain`."""
        return {
            "nodes": {"before": self.nodes_before, "after": self.nodes_after},
            "copied_table_bytes": self.copied_table_bytes,
            "rules": {rule.value: count for rule, count in self.used.items()},
            "split": [entry.as_json() for entry in self.entries if entry.rules],
            "left": [entry.as_json() for entry in self.entries if entry.left],
        }
