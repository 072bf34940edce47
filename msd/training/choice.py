"""Training of the networks of one `msd train`, each in its own folder, and the choice among them by the valid rows."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import polars as pl
import torch
from rich.table import Table

from msd.dataset.aggregate import impressions_of
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.metrics import Probabilities
from msd.ranker.feature_folder import is_whole, read_features, write_features
from msd.ranker.features import Features
from msd.ranker.model import RankerConfig
from msd.ranker.schema_fit import fit_schema
from msd.step import fingerprint_of, is_done, mark_done
from msd.student.vectors import StudentVectors
from msd.training.crossfit import CrossfitChoice, UserHalves
from msd.training.end_to_end import StudentTexts
from msd.training.folder import FORMAT, NetworkInputs, TrainedNetwork, train_network
from msd.training.train import Progress, TrainConfig, predict

# Name of a training → its progress callback.
Show = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Variant:
    """A network to choose from. `user_semantics`: whether it reads the vectors of users too; `changes`: of the
    RankerConfig."""

    name: str
    semantics: bool = True
    user_semantics: bool = True
    changes: Mapping[str, object] = field(default_factory=dict)


WHOLE = Variant("the whole network")
WITHOUT_SEMANTICS = Variant("ours_without_semantics", semantics=False)
WITHOUT_USER_KNOWLEDGE = Variant("without_user_knowledge", user_semantics=False)
WITHOUT_TASTE = Variant("without_taste", changes={"taste": False})
# Each lacks one part; the simplest first.
SIMPLER = (WITHOUT_SEMANTICS, WITHOUT_TASTE, WITHOUT_USER_KNOWLEDGE)


@dataclass(frozen=True)
class Training:
    """Settings shared by all networks of one command, and the dataset's fingerprint. Each network is stored in `work`,
    in a folder of its name, with the features, and trained on `device`. `texts`: of a student that is trained, too."""

    dataset: str
    vectors: StudentVectors
    config: RankerConfig
    settings: TrainConfig
    work: Path
    device: torch.device = torch.device("cpu")
    texts: StudentTexts | None = None

    def write_features(self, variant: Variant, data: Dataset) -> None:
        """Write the network's features, unless they are there, and whole. A variant without user vectors, or without
        any, has no columns for them."""
        folder = self._features(variant)
        if not (is_done(folder, folder.name) and is_whole(folder)):
            start = time.perf_counter()
            schema = fit_schema(data, semantics=variant.semantics, user_semantics=variant.user_semantics)
            write_features(folder, data, schema, self.vectors)
            mark_done(folder, folder.name, time.perf_counter() - start)

    def train(self, variant: Variant, show: AbstractContextManager[Progress]) -> tuple[TrainedNetwork, Features]:
        """Return the stored network, or train it (resuming where it was interrupted), and its features, which must have
        been written."""
        features = read_features(self._features(variant)).to(self.device)
        inputs = NetworkInputs(self.dataset, self.vectors.student, features, self.texts)
        config = self.config.model_copy(update=variant.changes)
        folder, run = self.folder_of(variant), self._run(variant)
        with nullcontext(lambda *_: None) if is_done(folder, run) else show as hear:
            return train_network(folder, run, inputs, config, self.settings, hear), features

    def folder_of(self, variant: Variant) -> Path:
        """Return where a network is stored."""
        return self.work / variant.name.replace(" ", "_")

    def _run(self, variant: Variant) -> str:
        """Return the fingerprint of everything that the network depends on."""
        settings = self.config.model_dump(), asdict(self.settings), asdict(variant)
        return fingerprint_of(FORMAT, self.dataset, self.vectors.student, *settings)

    def _features(self, variant: Variant) -> Path:
        used = self.dataset, self.vectors.student, variant.semantics, variant.user_semantics
        return self.work / "features" / fingerprint_of(FORMAT, *used)


def variants_of(vectors: StudentVectors) -> tuple[Variant, ...]:
    """Return the whole network first, then those without one part. Without user vectors, leave out
    `WITHOUT_USER_KNOWLEDGE`, which would be the same."""
    return WHOLE, *(variant for variant in SIMPLER if vectors.users.ids or variant != WITHOUT_USER_KNOWLEDGE)


def valid_halves(data: Dataset) -> UserHalves:
    """Return the valid rows in two halves by user. Raises CrossfitError."""
    valid = data.events.filter(split_events(data.events, data.config) == Part.VALID)
    users = valid["user_id"].rank("dense").cast(pl.Int64).to_numpy()
    labels, shown = (column.cast(pl.Float64).to_numpy() for column in (valid["label"], impressions_of(valid)))
    return UserHalves.of(labels, users, shown)


def choose_network(
    training: Training, variants: Sequence[Variant], halves: UserHalves, show: Show
) -> tuple[TrainedNetwork, CrossfitChoice]:
    """Train the variants in order and keep the first unless another is surely better on the valid rows, with live
    counts as in serving."""
    networks: dict[str, TrainedNetwork] = {}
    scores: dict[str, Probabilities] = {}
    for place, variant in enumerate(variants, start=1):
        network, features = training.train(variant, show(f"{variant.name} ({place} of {len(variants)})"))
        networks[variant.name] = network
        scores[variant.name] = predict(network.model, features.live(), features.of_part(Part.VALID))
    choice = halves.choose(scores)
    return networks[choice.kept], choice


def table_of(choice: CrossfitChoice) -> Table:
    """Return the networks tried: AUC with live counts (mean of both halves of valid users) and gain over the whole."""
    table = Table("network", "valid AUC", "gain (95 % over users)", box=None)
    for name, tried in choice.tried.items():
        ends = " ({:+.4f}, {:+.4f})".format(*tried.ci95) if tried.ci95 else ""
        table.add_row(name, f"{tried.auc:.4f}", "–" if name == choice.whole else f"{tried.gain:+.4f}{ends}")
    return table
