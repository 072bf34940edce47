"""Model variants, the lines of a benchmark's tables: network, vectors and training.

Trains nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from lab.benchmark.given import Fitted, Floats, Given, Rows
from lab.benchmark.regression import regression, regression_mood, regression_taste
from msd.evaluation.baselines import counts_baseline
from msd.ranker.model import RankerConfig

# Source of a network's vectors; with None, its schema has no columns for vectors.
# `untaught`: of a student that was not trained on the seed's valid and test items.
Source = Literal["student", "untaught", "plain", "bag_of_words"]


@dataclass(frozen=True)
class Variant:
    """One model. `source`: of its vectors. `changes`: of the protocol's RankerConfig; for a fitted model, its settings
    for the record. `textless`: the network of `ENCODED`, scoring without the vectors of valid and test items. `fitted`:
    used in place of a network.

    `taught`, `untaught`: the kinds of new items on which it is compared: described by the teacher beforehand, or with
    only a text.
    """

    name: str
    role: Literal["ours", "baseline", "ablation"]
    source: Source | None = None
    changes: Mapping[str, object] = field(default_factory=dict)
    textless: bool = False
    fitted: Fitted | None = None
    taught: bool = True
    untaught: bool = False

    def config(self, base: RankerConfig) -> RankerConfig:
        """Return the network's configuration. Raises ValueError for a change that RankerConfig does not know."""
        return RankerConfig.model_validate({**base.model_dump(), **self.changes})


# Increment with any change of a network from the literature, so that kept predictions of it are made again.
BASELINES_FORMAT = 2
OURS, PLAIN = "ours", "ours_without_semantics"
ENCODED, CATEGORY_PRIOR = "encoded", "category_prior"  # a service's names for such scores


def standard_variants() -> tuple[Variant, ...]:
    """Return ours and its comparisons for a test set split by time."""
    return (
        Variant(OURS, "ours", "student"),
        Variant(PLAIN, "baseline"),
        Variant("regression", "baseline", fitted=regression),
        Variant("regression_mood", "baseline", fitted=regression_mood),
        Variant("regression_taste", "baseline", "student", fitted=regression_taste),
        Variant("counts_gbdt", "baseline", fitted=_trees),
        *(Variant(network, "baseline", changes={"network": network}) for network in ("lr", "deepfm", "din", "dcnv2")),
        Variant("without_taste", "ablation", "student", {"taste": False}),
        Variant("without_count_model", "ablation", "student", {"counts": ()}),
        *_other_texts(),
    )


def cold_variants() -> tuple[Variant, ...]:
    """Return ours and its comparisons for a test set of items without clicks.

    `ours` has the teacher's description of them, `encoded` only their text, `category_prior` neither.
    """
    untaught = Variant(ENCODED, "ours", "untaught", taught=False, untaught=True)
    return (
        Variant(OURS, "ours", "student"),
        untaught,
        Variant(PLAIN, "baseline", untaught=True),
        replace(untaught, name=CATEGORY_PRIOR, role="baseline", textless=True),
        *(replace(variant, untaught=variant.source == "plain") for variant in _other_texts()),
    )


def _other_texts() -> tuple[Variant, ...]:
    return Variant("plain_text", "ablation", "plain"), Variant("bag_of_words", "ablation", "bag_of_words")


def _trees(given: Given, events: Rows) -> Floats:
    return counts_baseline(given.features, events, given.seed)
