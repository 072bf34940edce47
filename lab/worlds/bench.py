"""One world's rows for all models: the log's test rows, and the candidates of auctions at its end, all with live state.

Candidates are events of one moment after the log: each is scored with all that the log tells, none knows the others.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lab.benchmark.predictions import REQUEST_S
from lab.benchmark.vectors import NOTHING
from lab.worlds.law import Floats, Law
from lab.worlds.log import columns_of, truth_of
from lab.worlds.made import Auctions
from lab.worlds.world import Ready, Within
from msd.dataset.config import PART_NAMES, SplitConfig
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.split import Part, split_events
from msd.ranker.features import Features, build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.vectors import StudentVectors

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Bench:
    """A world's log (`data`), and `whole`, which ends with the auctions' candidates if it has a law."""

    data: Dataset
    whole: Dataset
    ready: Ready
    within: Within
    auctions: Auctions | None

    @property
    def test(self) -> Rows:
        """The log's test rows."""
        return np.flatnonzero(self.parts == Part.TEST)

    @property
    def candidates(self) -> Rows:
        """The auctions' rows, auction by auction; none without a law."""
        return np.arange(self.data.events.height, self.whole.events.height)

    @cached_property
    def parts(self) -> NDArray[np.int8]:
        """The part of each event of the log."""
        return split_events(self.data.events, self.data.config)

    @cached_property
    def features(self) -> Features:
        """All rows with live counts, and without vectors."""
        return build_features(self.whole, fit_schema(self.data, semantics=False), NOTHING).live()

    @cached_property
    def late(self) -> Features:
        """The same where feedback is known ten minutes late: rows of one visit know nothing of each other."""
        return build_features(self.whole, self.features.schema, NOTHING, REQUEST_S).live()

    def with_vectors(self, features: Features, vectors: StudentVectors, *, user_vectors: bool) -> Features:
        """Return one of the two with vectors and their columns."""
        schema = fit_schema(self.data, user_semantics=user_vectors)
        return build_features(self.whole, schema, vectors, timeline=features.timeline).live()

    @cached_property
    def truth(self) -> Floats | None:
        """The true click probabilities of the test rows; None without a law."""
        return truth_of(self.data)[self.test] if self.ready.made else None

    @cached_property
    def groups(self) -> Rows | None:
        """The request of each test row, as a number; None if requests are the auctions."""
        if self.within == "auction":
            return None
        keys = [pl.col("user_id"), *([pl.col("at") // REQUEST_S] if self.within == "visit" else [])]
        return self.data.events[self.test].select(pl.struct(keys).rank("dense").cast(pl.Int64)).to_series().to_numpy()


def open_bench(ready: Ready, within: Within, auctions: int, at: int | None = None) -> Bench:
    """Load a world's log, and add the candidates of so many `auctions` if it has a law: `at` a time (Unix s), or a
    second after the log."""
    data = load_dataset(ready.folder)
    if ready.made is None:
        return Bench(data, data, ready, within, None)
    drawn = ready.made.auctions(auctions)
    return Bench(data, _with_auctions(data, ready.made.law, drawn, at), ready, within, drawn)


def _with_auctions(data: Dataset, law: Law, auctions: Auctions, at: int | None) -> Dataset:
    """Return the dataset with candidates as events of one moment, in the test part."""
    names = np.array(PART_NAMES)[split_events(data.events, data.config)]
    log = data.events.with_columns(part=pl.Series(names))
    columns: dict[str, list[Any]] = {**columns_of(law, auctions.shown)}
    count = len(auctions.shown.user)
    moment = int(log["at"][-1]) + 1 if at is None else at
    constant = {"at": moment, "label": 0, "part": "test", "conversion": 0, "converted_at": None}
    columns |= {name: [value] * count for name, value in constant.items() if name in log.columns}
    added = pl.DataFrame({name: pl.Series(columns[name], dtype=kind) for name, kind in log.schema.items()})
    config = data.config.model_copy(update={"split": SplitConfig(column="part")})
    return replace(data, events=pl.concat([log, added]), config=config)
