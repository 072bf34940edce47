"""Rules of the factorising pass, and its report: what it did to each node, and why it left others."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Rule(StrEnum):
    """A rule of the pass."""

    BROADCAST = "broadcast"
    """A user's tensor tiled over the candidates stays untiled; operators broadcast it."""
    CONCAT = "concat"
    """Concatenated parts stay parts through layout and elementwise operators."""
    AFFINE = "affine"
    """Sums and products with shared tensors stay symbolic, as Σ L·a + b; only L varies by candidate."""
    LINEAR = "linear"
    """A matrix product over parts, sums and scaled tensors multiplies what candidates share only once."""
    USER_MATRIX = "user_matrix"
    """(candidate · user) @ W = candidate @ (user · W): one matrix for all candidates, made from the user."""
    WEIGHTED_SUM = "weighted_sum"
    """Σ weight · user's row, with weights by candidate, is a matrix product."""
    SOFTMAX = "softmax"
    """softmax(user ‖ candidate) is two softmaxes, weighted by their shares."""
    GATHER = "gather"
    """At least three look-ups in tables of one width become one look-up in a joined table.

    Indices are assumed to be from 0 to below the length of their own table, as in an embedding.
    """


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

    @property
    def used(self) -> dict[Rule, int]:
        """Number of nodes split by each rule."""
        split = [rule for entry in self.entries for rule in entry.rules]
        return {rule: split.count(rule) for rule in Rule if rule in split}

    def as_json(self) -> dict[str, Any]:
        """Return the whole report, for `--explain`."""
        return {
            "nodes": {"before": self.nodes_before, "after": self.nodes_after},
            "rules": {rule.value: count for rule, count in self.used.items()},
            "split": [entry.as_json() for entry in self.entries if entry.rules],
            "left": [entry.as_json() for entry in self.entries if entry.left],
        }
