"""One network as graphs: as it was written, as the factorising pass makes it, and as its twin."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx

from model_export.factorise.pass_ import Factorised, factorise
from model_export.factorise.proof import prove
from model_export.factorise.rule import Rule
from model_export.reference.graphs import plain_graph, tiled_graph
from model_export.reference.inputs import SIDES, Feeds, Sizes, random_feeds
from model_export.reference.network import NETWORKS, ReferenceNetwork, lively, made
from model_export.reference.twins import twin_of
from msd.contract.schema import Side

_PROVED = (1, 3, 50, 200)


@dataclass(frozen=True)
class Subject:
    """A network of some sizes."""

    name: str
    network: ReferenceNetwork
    sizes: Sizes

    @property
    def sides(self) -> Mapping[str, Side]:
        """Whose each input is."""
        return {name: SIDES[name] for name in self.network.inputs}

    @cached_property
    def plain(self) -> onnx.ModelProto:
        """The user at batch 1, repeated inside."""
        return plain_graph(self.network, self.network, self.sizes)

    @cached_property
    def passed(self) -> Factorised:
        """The plain graph after the pass, with its report."""
        return factorise(self.plain, self.sides)

    @property
    def twin(self) -> onnx.ModelProto:
        """Factorised by hand."""
        twin = twin_of(self.network)
        return plain_graph(twin, twin, self.sizes)

    @property
    def tiled(self) -> onnx.ModelProto:
        """Every input with a row a candidate."""
        return tiled_graph(self.network, self.sizes)

    def without(self, rule: Rule) -> onnx.ModelProto:
        """The plain graph after the pass with one rule switched off."""
        return factorise(self.plain, self.sides, frozenset(Rule) - {rule}).model

    def request(self, candidates: int, seed: int = 0) -> Feeds:
        """A random request."""
        return {name: value for name, value in random_feeds(self.sizes, candidates, seed).items() if name in self.sides}

    def proved(self) -> float:
        """How far plain and passed graph differ in double precision. Raises ExportError above 1e-12."""
        return prove(self.plain, self.sides, [self.request(candidates, candidates) for candidates in _PROVED])


def untrained(sizes: Sizes) -> list[Subject]:
    """All but the reference model, which is trained."""
    return [Subject(name, lively(made(name, sizes, 0)), sizes) for name in NETWORKS if name != "reference"]
