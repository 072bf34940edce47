"""`msd lab hours`: what is earned within a served day by live counts alone, recalibration, a refresh and a training.

A made log of five days trains a model; on the sixth, tastes may move at noon. By each hour's end ways of following know
the log up to 15 minutes before the hour, and auctions half an hour into it say what each earns by the law.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer
from numpy.typing import NDArray

from lab.worlds.law import DAY_S, HOUR_S, START_S, Floats
from lab.worlds.log import columns_of, write_world
from lab.worlds.made import Auctions, MadeWorld
from lab.worlds.recipe import Recipe, WorldError
from msd.bootstrap import resampled_sums
from msd.contract.schema import FeatureSchema
from msd.dataset.config import PART_NAMES, SplitConfig
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.split import Part
from msd.feedback.dataset import with_parts
from msd.feedback.recalibrate import Impressions, learn
from msd.metrics import row_losses, sigmoid
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features, build_features
from msd.ranker.model import RankerConfig
from msd.ranker.schema_fit import fit_schema
from msd.student.vectors import no_vectors
from msd.training.refresh import refresh_ranker
from msd.training.train import TrainConfig, predict, predict_logits, train_ranker

app = typer.Typer(add_completion=False)
_DAYS, _BEHIND_S, _INTO_S, _Z = 6, 900, 1_800, 1.2816
_TODAY = START_S + (_DAYS - 1) * DAY_S
_AUCTIONS = 1_500
_KINDS: dict[str, dict[str, Any]] = {
    "drift": {"drift": (_DAYS - 0.5) / _DAYS},
    "quiet": {},
    "churn": {"ads": 0, "new_ads": 150, "ad_days": 1.0},
}


@app.command("hours")
def hours(
    kind: Annotated[str, typer.Argument(help=f"What moves: {', '.join(_KINDS)}.")] = "drift",
    rows: Annotated[int, typer.Option(min=2_000, help="Impressions of the six days.")] = 60_000,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the law and the log.")] = 0,
    hour: Annotated[list[int] | None, typer.Option(min=1, max=22, help="Hours of the day. Repeatable.")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Also train a model on all that each hour knows.")] = False,
) -> None:
    """Print as JSON lines, by hour and way, the eCPM of the first place by the law, and AUC within auctions."""
    if kind not in _KINDS:
        raise WorldError(f"nothing moves as {kind!r}; there are {', '.join(_KINDS)}")
    with TemporaryDirectory() as name:
        day = _Day.of(Path(name), Recipe(kind, rows=rows, days=_DAYS, **_KINDS[kind]), seed)
        for one in hour or (13, 14, 16, 20):
            for line in day.at(one, whole=whole):
                typer.echo(json.dumps({"kind": kind, "rows": rows, "seed": seed, "hour": one, **line}))


@dataclass(frozen=True)
class _Day:
    """A world, its log, the number of events before the served day, and the model that they trained."""

    folder: Path
    made: MadeWorld
    data: Dataset
    past: int
    model: TrainedRanker

    @classmethod
    def of(cls, folder: Path, recipe: Recipe, seed: int) -> "_Day":
        made = write_world(folder / "log", recipe, seed)
        data = load_dataset(folder / "log")
        past = int((data.events["at"] < _TODAY).sum())
        trained = _with_parts(replace(data, events=data.events[:past]), past)
        schema = fit_schema(trained, semantics=False)
        return cls(folder, made, data, past, _trained(trained, schema, folder / "night"))

    def at(self, hour: int, *, whole: bool) -> Iterator[dict[str, Any]]:
        """Yield what each way earns in an hour."""
        now = _TODAY + hour * HOUR_S
        auctions = self.made.auctions(_AUCTIONS, seed=hour, at=now + _INTO_S)
        log = self.data.events.filter(pl.col("at") < now + _INTO_S)
        features = self._features(log, auctions, now + _INTO_S)
        candidates = np.arange(log.height, len(features.labels))
        known = int((log["at"] < now - _BEHIND_S).sum())
        rows, at = np.arange(self.past, known), log["at"].to_numpy().astype(np.float64)
        latest = at[rows] > at[rows[-1]] - HOUR_S
        logits = self.model.calibrator.curve()(predict_logits(self.model, features, candidates))
        yield _earned("live counts", auctions, sigmoid(logits))
        yield _earned("recalibrated", auctions, sigmoid(self._recalibrated(features, rows, at, logits)))
        found = refresh_ranker(self.model, features, rows, at[rows], latest)
        z = self._sureness(features, rows[latest], found.unseen)
        told = {"z": round(z, 2), "published": z > _Z, "half_life_s": found.half_life_s}
        yield _earned("refreshed", auctions, predict(found.model, features, candidates)) | told
        if whole:
            model = _trained(
                _with_parts(replace(self.data, events=log[:known]), known),
                self.model.schema,
                self.folder / f"hour-{hour}",
            )
            yield _earned("trained anew", auctions, predict(model, features, candidates))
        yield _earned("law", auctions, auctions.chances.ravel())

    def _features(self, log: pl.DataFrame, auctions: Auctions, at: int) -> Features:
        """Return the features of a log and, behind it, of candidates of one moment, all with live counts."""
        columns = {**columns_of(self.made.law, auctions.shown)}
        count = len(auctions.shown.user)
        added: dict[str, Any] = {**columns, "at": [at] * count, "label": [0] * count, "part": ["test"] * count}
        events = pl.DataFrame({name: pl.Series(added[name], dtype=kind) for name, kind in log.schema.items()})
        data = _with_parts(replace(self.data, events=pl.concat([log, events])), self.past)
        return build_features(data, self.model.schema, no_vectors()).live()

    def _recalibrated(self, features: Features, rows: NDArray[np.int64], at: Floats, logits: Floats) -> Floats:
        served = self.model.calibrator.curve()(predict_logits(self.model, features, rows))
        labels, _ = features.outcomes(rows)
        line = learn(Impressions(served, labels, features.people(rows), at[rows]), None, 7.0 * DAY_S).learned
        return logits if line is None else line.centre + line.shift + line.slope * (logits - line.centre)

    def _sureness(self, features: Features, latest: NDArray[np.int64], unseen: Floats) -> float:
        """Return the gain of logloss on the latest rows, in standard errors over users."""
        labels, shown = features.outcomes(latest)
        before, after = row_losses(labels, np.stack([predict(self.model, features, latest), unseen]))
        sums = np.stack([shown * (before - after), shown])
        drawn = resampled_sums(features.people(latest), sums)
        return float(sums[0].sum() / sums[1].sum() / np.std(drawn[0] / drawn[1]))


def _earned(way: str, auctions: Auctions, scores: Floats) -> dict[str, Any]:
    law = auctions.chances.ravel()
    return {
        "way": way,
        "first_ecpm": round(auctions.revenue(scores), 1),
        "within_auc": round(auctions.within_auc(scores), 4),
        "predicted_over_law": round(float(scores.mean() / law.mean()), 3),
    }


def _with_parts(data: Dataset, trained: int) -> Dataset:
    """Return the dataset with the first rows in a night's parts, and the others in test."""
    events = data.events.drop("part", strict=False)
    parts = with_parts(events[:trained].lazy(), trained).collect()["part"]
    rest = pl.Series("part", [PART_NAMES[Part.TEST]] * (events.height - trained), dtype=pl.String)
    config = data.config.model_copy(update={"split": SplitConfig(column="part")})
    return replace(data, events=events.with_columns(pl.concat([parts, rest])), config=config)


def _trained(data: Dataset, schema: FeatureSchema, checkpoint: Path) -> TrainedRanker:
    """Return a model of all rows."""
    features = build_features(data, schema, no_vectors())
    return train_ranker(features, RankerConfig(), TrainConfig(), checkpoint, "hours", lambda *_: None)[0]
