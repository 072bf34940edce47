"""MovieLens-100K as `msd data ml-100k` writes it, with recorded knowledge: split in time, and by unseen items."""

from dataclasses import replace
from pathlib import Path

from lab.benchmark.linear import SETTINGS, attributes_linear, bayesian_linear, ridge_linear
from lab.benchmark.protocol import BenchmarkError, Folders, Progress, Protocol, write_knowledge
from lab.benchmark.variant import Variant, cold_variants, standard_variants
from msd.dataset.load import load_dataset
from msd.teachers.collect import Stage, collect_knowledge
from msd.teachers.knowledge import load_knowledge, load_record
from msd.teachers.recorded import RecordedTeacher
from msd.training.train import TrainConfig


def prepare(data: Path, work: Path, progress: Progress) -> Folders:
    """Return the given dataset, and its recorded knowledge in `work`.

    Raises BenchmarkError if `data` is another dataset, DatasetError if it is invalid.
    """
    return _prepare(data, work / "knowledge", progress)


def prepare_items(data: Path, work: Path, progress: Progress) -> Folders:
    """Return the same with knowledge of items alone: that of users is based on events of items that a seed hides."""
    whole = _prepare(data, work / "recorded", progress).knowledge
    base = replace(load_knowledge(whole), users={})
    return Folders(data, write_knowledge(work / "knowledge", base, load_record(whole)))


def _prepare(data: Path, knowledge: Path, progress: Progress) -> Folders:
    dataset = load_dataset(data)
    if dataset.config.name != "ml-100k":
        raise BenchmarkError(
            f"{data}: holds the dataset {dataset.config.name!r}; DATASET is the folder that `msd data ml-100k` wrote"
        )

    def show(stage: Stage) -> None:
        progress(f"looking up what is known of {stage.name}", stage.done, stage.total)

    collect_knowledge(dataset, RecordedTeacher(dataset.config), knowledge, show)
    return Folders(data, knowledge)


ML_100K = Protocol(
    name="ml-100k",
    split="each user's ratings in time: the first 80 % train, the next 10 % are valid, the last 10 % test; "
    "what is known of a user rests on the first half and is used for the rest",
    prepare=prepare,
    variants=standard_variants(),
    # On valid rows, `msd train --choose` keeps the network without user knowledge (docs/benchmarks.md).
    user_vectors=False,
    # Without vectors, valid AUC still rises after 20 epochs: a baseline must not be cut short.
    training=TrainConfig(epochs=60),
    looks=(
        "five seeds: ours .8054",
        "each `make demo`, of which nobody keeps count: one seed on these very rows",
        "five seeds without knowledge of users: ours .8097",
        "two seeds, with taste and content model: ours .8153 at once, .8080 ten minutes late",
        "two seeds, with a mood of the visit: ours .8165 at once, .8077 ten minutes late",
        "the same with five seeds: ours .8161 at once, .8074 ten minutes late",
    ),
)

ML_100K_COLD = Protocol(
    name="ml-100k-cold",
    split="each seed hides another fifth of the items, whose rows are test; a tenth of the other items is valid",
    prepare=prepare_items,
    variants=(
        *cold_variants(),
        Variant("genres_year", "baseline", changes=SETTINGS, fitted=attributes_linear, untaught=True),
        Variant("ridge", "baseline", changes=SETTINGS, fitted=ridge_linear),
        Variant("bayesian_multi_task", "baseline", changes=SETTINGS, fitted=bayesian_linear),
    ),
    looks=(
        "ten seeds, every item taught: ours .7531",
        "an audit's re-run, three seeds, taught and untaught",
        "ten seeds: ours .7529, with text alone .7130",
        "five seeds, to simulate exploration of the hidden films: ours .7447",
        "ten seeds, with the content model: ours .7499; three with text alone .7256",
        "ten seeds, with a mood of the visit: ours .7500; three with text alone .7250",
        "the same three with the guess of missing vectors: with text .7233, without .7207",
    ),
    seeds=10,
    hidden=0.2,
    delays_s=(0,),
    user_vectors=False,
    # Hidden items must not get counts from other users' rows.
    training=TrainConfig(live=False),
)
