"""Definition of a benchmark: how its data is prepared, what is compared, with which settings. Knows no single
benchmark."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from lab.benchmark.variant import Variant
from msd.contract.errors import MsdError
from msd.contract.files import write_bytes_atomic, write_text_atomic
from msd.ranker.model import RankerConfig
from msd.step import fingerprint_of
from msd.student.distill import DistillConfig
from msd.teachers.knowledge import KNOWLEDGE_FILES, RECORD_FILE, KnowledgeBase, TeachRecord
from msd.training.train import TrainConfig

# Increment with any code change after which a model would predict something else from the same data.
FORMAT = 6
# What no other network reads, and is newer than the protocols.
_OF_PAPER = {"ranker": ("selected", "fusion", "rank", "layers"), "training": ("student_learning_rate",)}
Progress = Callable[[str, int, int], None]  # current step, done, total


class BenchmarkError(MsdError):
    """A benchmark cannot run: its data is missing or malformed, or an option does not fit."""


class Folders(NamedTuple):
    """A dataset, and a teacher's knowledge of it."""

    dataset: Path
    knowledge: Path


@dataclass(frozen=True)
class Protocol:
    """One benchmark. `prepare`: from the given data and a working folder to the folders that models are made from.

    `split`: in words, for the record. `looks`: each earlier look at test, and its result. `seeds`: default number.
    `ablation_seeds`: maximum for ablations. `hidden`: the share of items that each seed hides for test. If set, seeds
    are paired; otherwise users and seeds are, and live counts are measured as well. `delays_s`: after how long feedback
    becomes known, in training and afterwards. `user_vectors`: whether users have vectors at all.
    """

    name: str
    split: str
    prepare: Callable[[Path, Path, Progress], Folders]
    variants: tuple[Variant, ...]
    looks: tuple[str, ...] = ()
    seeds: int = 5
    ablation_seeds: int = 3
    hidden: float | None = None
    delays_s: tuple[int, ...] = (0, 600, 86_400)
    user_vectors: bool = True
    ranker: RankerConfig = RankerConfig()
    training: TrainConfig = TrainConfig()
    distilling: DistillConfig = DistillConfig()

    def frozen(self) -> dict[str, Any]:
        """Return every setting that the figures depend on besides data and code, as JSON; `msd evaluate` writes its
        hash."""
        whole = asdict(replace(self, variants=()))
        if whole["distilling"]["users"]:
            # Protocols are older than this setting, and read users' texts.
            del whole["distilling"]["users"]
        # What a log chooses, such as crosses, is None here, and no setting.
        ranker = self.ranker.model_dump(mode="json", exclude_none=True)
        for part, names in _OF_PAPER.items() if self.ranker.network != "paper" else ():
            for name in names:
                del {**whole, "ranker": ranker}[part][name]
        return {
            "code": FORMAT,
            **{name: value for name, value in whole.items() if name not in ("prepare", "looks")},
            "delays_s": list(self.delays_s),
            "ranker": ranker,
            "variants": [_described(variant) for variant in self.variants],
        }

    def sha256(self) -> str:
        """Return the hash of `frozen`: results with the same hash were made alike."""
        return fingerprint_of(self.frozen())


def _described(variant: Variant) -> dict[str, Any]:
    fields = {name: value for name, value in vars(variant).items() if name != "fitted"}
    return {**fields, "changes": dict(variant.changes), "fitted": getattr(variant.fitted, "__name__", None)}


def write_knowledge(folder: Path, base: KnowledgeBase, record: TeachRecord) -> Path:
    """Write a knowledge folder as `msd teach` would, the record last, and return it."""
    files = {
        name: "".join(f"{knowledge.model_dump_json()}\n" for knowledge in level.values()).encode()
        for name, level in zip(KNOWLEDGE_FILES, (base.items, base.users), strict=True)
    }
    for name, content in files.items():
        write_bytes_atomic(folder / name, content)
    counted = record.model_copy(update={"items": len(base.items), "users": len(base.users)})
    write_text_atomic(folder / RECORD_FILE, counted.model_dump_json(indent=2) + "\n")
    return folder
