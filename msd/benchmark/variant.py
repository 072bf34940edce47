"""The lines of a benchmark's tables: which model, with which vectors, trained how. Trains nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.dataset.load import Dataset
from msd.ranker.baseline import counts_baseline
from msd.ranker.features import Features
from msd.ranker.model import RankerConfig
from msd.teachers.knowledge import KnowledgeBase

# Whose vectors a network sees; None of them: it has no place for vectors at all.
Source = Literal["student", "student_items", "explicit", "implicit", "plain", "bag_of_words", "teacher_text"]
Floats = NDArray[np.float64]


class Given(NamedTuple):
    """What a model that is no network may look at; `features` are without vectors."""

    dataset: Dataset
    knowledge: KnowledgeBase
    features: Features
    seed: int


# Fits on the training rows and gives the click probabilities of some events [n].
Fitted = Callable[[Given, NDArray[np.int64]], Floats]


@dataclass(frozen=True)
class Variant:
    """One model. changes: of the protocol's RankerConfig. tuned: the student is trained on with the ranker, from where
    the variant named `starts_from` ended. fitted: in place of a network; `source` and the rest then mean nothing."""

    name: str
    role: Literal["ours", "baseline", "ablation"]
    source: Source | None = None
    changes: Mapping[str, object] = field(default_factory=dict)
    tuned: bool = False
    fitted: Fitted | None = None

    def config(self, base: RankerConfig) -> RankerConfig:
        """The network's configuration. Raises ValueError for a change that RankerConfig does not know."""
        return RankerConfig.model_validate({**base.model_dump(), **self.changes})

    def first_stage(self) -> "Variant":
        """The same before the student is tuned: itself if it never is."""
        return replace(self, name=UNTUNED, tuned=False) if self.tuned else self


OURS, PLAIN, UNTUNED = "ours", "ours_without_semantics", "without_lora"
UNTUNED_OURS = Variant(UNTUNED, "ablation", "student")


def standard_variants() -> tuple[Variant, ...]:
    """Ours, and what it is compared with where test is what comes later.

    Only ours is tuned: an ablation is to be read beside the first of them, `without_lora`.
    """
    return (
        Variant(OURS, "ours", "student", tuned=True),
        Variant(PLAIN, "baseline"),
        Variant("counts_gbdt", "baseline", fitted=_trees),
        *(Variant(network, "baseline", changes={"network": network}) for network in ("lr", "deepfm", "din", "dcnv2")),
        UNTUNED_OURS,
        replace(UNTUNED_OURS, name="without_item_fusion", changes={"fusion": False}),
        replace(UNTUNED_OURS, name="without_selector", changes={"selected": None}),
        *_other_texts(),
    )


def cold_variants() -> tuple[Variant, ...]:
    """Ours, and what it is compared with where test is items that nobody has seen; none is tuned."""
    return (Variant(OURS, "ours", "student"), Variant(PLAIN, "baseline"), *_other_texts())


def _other_texts() -> tuple[Variant, ...]:
    return (
        Variant("without_distillation", "ablation", "plain"),
        Variant("bag_of_words", "ablation", "bag_of_words"),
        Variant("teacher_text", "ablation", "teacher_text"),
    )


def knowledge_ablations() -> tuple[Variant, ...]:
    """Networks that see less of what the teacher wrote; for data with knowledge of users, and of both kinds."""
    return (
        Variant("without_user_knowledge", "ablation", "student_items"),
        Variant("explicit_only", "ablation", "explicit"),
        Variant("implicit_only", "ablation", "implicit"),
    )


def _trees(given: Given, events: NDArray[np.int64]) -> Floats:
    return counts_baseline(given.features, events, given.seed)


def seeds_of(variant: Variant, seeds: Sequence[int], of_ablations: int) -> Sequence[int]:
    """An ablation has the first few seeds only."""
    return seeds[:of_ablations] if variant.role == "ablation" else seeds
