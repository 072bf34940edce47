"""One network as graphs: as written, after the factorising pass, and as its twin."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx

from lab.reference.graphs import plain_graph, tiled_graph
from lab.reference.inputs import SIDES, Feeds, Sizes, random_feeds
from lab.reference.network import ReferenceModel, ReferenceNetwork
from lab.reference.twin import ReferenceTwin
from model_export.factorise.pass_ import Factorised, factorise
from model_export.factorise.proof import prove
from msd.contract.schema import Side

_PROVED = (1, 3, 50, 200)


@dataclass(frozen=True)
class Subject:
    """A network and its sizes."""

    name: str
    network: ReferenceNetwork
    sizes: Sizes

    @property
    def sides(self) -> Mapping[str, Side]:
        """Side of each input."""
        return {name: SIDES[name] for name in self.network.inputs}

    @cached_property
    def plain(self) -> onnx.ModelProto:
        """The graph with the user at batch 1, repeated inside."""
        return plain_graph(self.network, self.sizes)

    @cached_property
    def passed(self) -> Factorised:
        """The plain graph after the pass, with its report."""
        return factorise(self.plain, self.sides)

    @property
    def twin(self) -> onnx.ModelProto:
        """The reference model's graph factorised by hand."""
        assert isinstance(self.network, ReferenceModel)
        return plain_graph(ReferenceTwin(self.network).eval(), self.sizes)

    @property
    def tiled(self) -> onnx.ModelProto:
        """The graph with one row per candidate in every input."""
        return tiled_graph(self.network, self.sizes)

    def request(self, candidates: int, seed: int = 0) -> Feeds:
        """Return a random request."""
        return {name: value for name, value in random_feeds(self.sizes, candidates, seed).items() if name in self.sides}

    def proved(self) -> float:
        """Prove the pass in double precision; return the greatest difference. Raises ExportError above 1e-12."""
        return prove(self.plain, self.sides, [self.request(candidates, candidates) for candidates in _PROVED])
