"""The network that a configuration asks for: MSD's own or a baseline, all of one interface."""

from msd.contract.schema import FeatureSchema
from msd.ranker.baselines import Baseline, DcnV2, DeepFm, Din, LogisticRegression
from msd.ranker.model import Ranker, RankerConfig

Network = Ranker | Baseline
_BASELINES: dict[str, type[Baseline]] = {"lr": LogisticRegression, "deepfm": DeepFm, "din": Din, "dcnv2": DcnV2}


def new_network(schema: FeatureSchema, config: RankerConfig) -> Network:
    """An untrained network, its weights drawn from torch's generator."""
    return Ranker(schema, config) if config.network == "msd" else _BASELINES[config.network](schema, config)
