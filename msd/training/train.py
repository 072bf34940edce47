"""Training of a ranker on window and train rows: its crosses, taste, count and content models, then its network. Early
stopping and calibration on valid rows.
"""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from msd.checkpoint import load_checkpoint, save_checkpoint
from msd.contract.errors import MsdError
from msd.dataset.split import Part
from msd.metrics import roc_auc, sigmoid
from msd.ranker.adaptor import Adaptors
from msd.ranker.arrays import CHUNK, chunks
from msd.ranker.batch import Corruption, Hiding, TrainedRanker, batch_loss, batch_opinions, with_taste
from msd.ranker.calibrate import calibrate_delayed, choose_calibration, fit_blend
from msd.ranker.features import Features
from msd.ranker.model import Opinions, Ranker, RankerConfig
from msd.training.end_to_end import GIVEN, Encoding, make_trainable
from msd.training.train_content import train_content
from msd.training.train_counts import train_counts
from msd.training.train_crosses import train_crosses
from msd.training.train_taste import train_taste

_PREDICT_ROWS = 2_048
BLOCK = 2**10
"""Neighbouring rows that stay in one chunk."""
USER_AFFINITIES = "ranker.affinity.users.weight"


class TrainError(MsdError):
    """The valid rows do not suffice to choose epochs or to calibrate."""


@dataclass(frozen=True)
class TrainConfig:
    """Training options.

    `patience`: epochs without a better valid AUC before early stopping. `averaging`: weight of later steps in the
    running average of the weights (`average_weights`); with 1, all count alike. `affinity_decay`: weight decay of
    users' affinities. `rows_per_user`: rows of one user that stay together, if the user has as many; a step with few
    users learns what differs between their rows, not between users. `live`: whether the valid rows have live counts, as
    in a service with feedback, or those of the end of train. The batch shrinks on small data, so that an epoch has
    enough steps.
    """

    seed: int = 0
    epochs: int = 20
    patience: int = 1
    largest_batch: int = 512
    rows_per_user: int = 8
    learning_rate: float = 2e-3
    student_learning_rate: float = 3e-4
    weight_decay: float = 0.01
    affinity_decay: float = 5.0
    averaging: float = 2.0
    live: bool = True
    corruption: Corruption = Corruption()

    def batch(self, rows: int) -> int:
        """Return the rows per step: a power of 2, at least 32, that gives an epoch 128 steps or more if possible."""
        return min(self.largest_batch, max(32, 1 << (rows // 128).bit_length() >> 1))

    def steps(self, rows: int) -> int:
        """Return the steps of an epoch of `rows` rows."""
        return -(-rows // self.batch(rows))


class EpochReport(NamedTuple):
    """One point of the training curve. `conversion_auc`: of valid clicks by their conversion, 0 without that head."""

    epoch: int
    train_loss: float
    valid_auc: float
    conversion_auc: float = 0.0

    @property
    def score(self) -> float:
        """What the best epoch has most of: the experts beside the network rank clicks, and no conversions."""
        return self.valid_auc + self.conversion_auc


Progress = Callable[[int, int, float], None]


def train_ranker(
    features: Features,
    model_config: RankerConfig,
    config: TrainConfig,
    checkpoint: Path,
    run: str,
    progress: Progress,
    encoding: Encoding = GIVEN,
) -> tuple[TrainedRanker, list[EpochReport]]:
    """Train a ranker; return that of the epoch with the best valid AUC, blended and calibrated, and the training curve.

    Its weights are the running average of the trained ones. If stopped and called again with the same `checkpoint` and
    `run`, it resumes after the last complete chunk of rows and ends with the same result. `progress(epoch, step,
    loss)`. `encoding`: of a student that is trained with it. Raises TrainError if the loss is not finite, if the valid
    rows have one label only, or with conversions, if all or none of their clicks converted.
    """
    _check_valid(features, model_config.network == "msd" and features.conversions is not None)
    model = new_model(features, model_config, config.seed)
    features = _before_network(model, features, config)
    average, best = copy.deepcopy(model), copy.deepcopy(model)
    optimiser = torch.optim.AdamW(_parameter_groups(model, config), lr=config.learning_rate, fused=True)
    modules: dict[str, nn.Module] = {"model": model, "average": average, "best": best}
    curve: list[EpochReport] = []
    position = _Position()
    if found := load_checkpoint(checkpoint, run, optimiser):
        record = json.loads(found.record)
        curve, position = [EpochReport(*point) for point in record["curve"]], _Position(*record["position"])
        for name, module in modules.items():
            module.load_state_dict(found.groups[name])
    while not _finished(curve, config):
        epoch = len(curve) + 1
        # Anew for each chunk, so that a resumed run reads the same vectors as an uninterrupted one.
        features = encoding.refreshed(model, features)
        position = _train_chunk(model, average, optimiser, features, config, epoch, position, progress, encoding)
        if position.chunk == chunk_count(len(features.parts)):
            judge = Judge(encoding.refreshed(average, features), config.live, config.corruption.unknown)
            aucs = judge.blend(average), judge.rank_conversions(average)
            report = EpochReport(epoch, position.loss / position.of_epoch, *aucs)
            if not curve or report.score > max(point.score for point in curve):
                best.load_state_dict(average.state_dict())
            curve.append(report)
            position = _Position(position.step)
        groups = {name: module.state_dict() for name, module in modules.items()}
        save_checkpoint(checkpoint, run, json.dumps({"curve": curve, "position": position}), groups, optimiser)
    Judge(encoding.refreshed(best, features), config.live).calibrate(best)
    return best.eval(), curve


class Judge:
    """Valid rows as served: with live counts (`live`) or with those of the end of train. They choose the epoch. With
    `live`, blend and calibration are fitted on both kinds, because a service may have no feedback.

    `anonymous`: weight of the same rows of anonymous users in the blend. Without them, a dataset whose valid users were
    all seen lately would leave the weights of old counts, which unknown users have, to chance."""

    def __init__(self, features: Features, live: bool, anonymous: float = 0.0) -> None:
        self._views = (features.live(), features) if live else (features,)
        self._anonymous, self._share = features.anonymous(), anonymous
        self._features, self._events = features, features.of_part(Part.VALID)
        self._labels, self._impressions = features.outcomes(self._events)

    def blend(self, model: TrainedRanker) -> float:
        """Fit the blend weights, if the model has several experts, and return the resulting AUC."""
        opinions = [predict_opinions(model, view, self._events) for view in self._views]
        if isinstance(model.ranker, Ranker) and model.ranker.experts > 1:
            found = _joined([*opinions, predict_opinions(model, self._anonymous, self._events)])
            labels = np.tile(self._labels, len(opinions) + 1)
            weights = np.concatenate([*[self._impressions] * len(opinions), self._share * self._impressions])
            blend = fit_blend(np.stack(found.experts), np.asarray(found.age), labels, weights)
            model.ranker.blend.copy_(torch.from_numpy(blend))
        return roc_auc(self._labels, _blended(model, opinions[0]), self._impressions)

    def rank_conversions(self, model: TrainedRanker) -> float:
        """Return the AUC of clicks by their conversion, 0 without that head."""
        if not model.has_conversions:
            return 0.0
        clicked = self._events[self._labels > 0]
        logits = np.asarray(predict_opinions(model, self._views[0], clicked).conversion)
        return roc_auc(self._features.converted(clicked), logits)

    def calibrate(self, model: TrainedRanker) -> None:
        """Fit the calibration of the blended logits, with one random view per row; and that of conversions."""
        opinions = [predict_opinions(model, view, self._events) for view in self._views]
        rows = np.arange(len(self._events))
        drawn = np.random.default_rng(0).integers(len(opinions), size=len(rows)), rows
        logits = np.stack([_blended(model, one) for one in opinions])[drawn]
        model.calibrator.set(choose_calibration(logits, self._labels, self._impressions))
        if model.has_conversions:
            clicked = self._labels > 0
            logits = np.stack([np.asarray(one.conversion) for one in opinions])[drawn][clicked]
            converted = self._features.converted(self._events[clicked])
            arrived = self._features.share_arrived(self._events[clicked])
            model.conversion_calibrator.set(calibrate_delayed(logits, converted, arrived))


def _check_valid(features: Features, has_conversions: bool) -> None:
    """Raise TrainError if the valid rows cannot choose an epoch, or their clicks calibrate a head for conversions."""
    valid = features.of_part(Part.VALID)
    labels, _ = features.outcomes(valid)
    if len(np.unique(labels)) < 2:
        raise TrainError(
            f"all {len(labels)} valid rows have label {labels[0]:g}, so that no epoch can be chosen by them; bring "
            "more events, or move the cuts in [split]"
        )
    if has_conversions and len(np.unique(converted := features.converted(valid[labels > 0]))) < 2:
        raise TrainError(
            f"of {len(converted)} valid clicks {converted.sum():.0f} converted, so that conversions cannot be "
            "calibrated; bring more events, move the cuts in [split], or leave `conversion` out of [events]"
        )


def new_model(features: Features, config: RankerConfig, seed: int) -> TrainedRanker:
    """Return a ranker on the features' device, untrained but for its adaptors, which are fitted to the vectors, and its
    crosses, which are chosen unless the config names them."""
    adaptors, crosses = Adaptors(features.schema, features.item.vectors.shape[1]), None
    adaptors.start_at(features)
    if config.network == "msd" and config.crosses is None:
        crosses = train_crosses(adaptors.adapt(features))
        config = config.model_copy(update={"crosses": crosses.chosen})
    torch.manual_seed(seed)
    conversions = features.conversions is not None
    model = TrainedRanker(features.schema, config, features.item.vectors.shape[1], conversions)
    model.adaptors.load_state_dict(adaptors.state_dict())
    if config.network == "paper":
        make_trainable(model)
    if crosses and isinstance(model.ranker, Ranker) and model.ranker.crosses:
        model.ranker.crosses.load_state_dict(crosses.state_dict())
    return model.to(features.labels.device)


def _before_network(model: TrainedRanker, features: Features, config: TrainConfig) -> Features:
    """Fit what the network is trained beside, and return the features with adapted vectors and the taste of events."""
    ranker, features = model.ranker, model.adaptors.adapt(features)
    if not isinstance(ranker, Ranker):
        return features
    if ranker.taste:
        train_taste(ranker.taste, features, config.seed)
        fitted = features.of_part(Part.WINDOW, Part.TRAIN, Part.VALID)
        features = with_taste(ranker.taste, features, fitted)
    if ranker.counts:
        train_counts(ranker.counts, features, config.corruption, config.seed)
    if ranker.content:
        train_content(ranker.content, features)
    return features


def _parameter_groups(model: TrainedRanker, config: TrainConfig) -> list[dict[str, Any]]:
    """Return the optimiser's groups. Users' affinities decay most, because each has the least data; differences of a
    student's weights do not, and learn slower, because it was trained before."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay, rate = config.affinity_decay if name == USER_AFFINITIES else config.weight_decay, config.learning_rate
        if name.startswith("lora."):
            decay, rate = 0.0, config.student_learning_rate
        groups.setdefault((decay, rate), []).append(parameter)
    # The largest decay first: the order in which a checkpoint has the optimiser's state.
    ordered = sorted(groups.items(), reverse=True)
    return [{"params": group, "weight_decay": decay, "lr": rate} for (decay, rate), group in ordered]


def _finished(curve: list[EpochReport], config: TrainConfig) -> bool:
    if not curve:
        return False
    best = max(curve, key=lambda point: point.score)
    return len(curve) >= config.epochs or len(curve) - best.epoch >= config.patience


class _Position(NamedTuple):
    """Where training is: steps so far, and of this epoch chunks and steps, with the sum of their losses."""

    step: int = 0
    chunk: int = 0
    of_epoch: int = 0
    loss: float = 0.0


def _train_chunk(
    model: TrainedRanker,
    average: TrainedRanker,
    optimiser: torch.optim.Optimizer,
    features: Features,
    config: TrainConfig,
    epoch: int,
    at: _Position,
    progress: Progress,
    encoding: Encoding,
) -> _Position:
    """Train on the next chunk of the epoch's rows, and return the position after it."""
    # Seeded by epoch and chunk, so that a resumed run draws the same rows and dropout as an uninterrupted one.
    torch.manual_seed(config.seed * 1_000 + epoch + 1_000_000_000 * at.chunk)
    rng = np.random.default_rng([config.seed, epoch, at.chunk])
    rows = random_chunk(len(features.parts), at.chunk, [config.seed, epoch])
    events = rows[features.parts[rows] <= Part.TRAIN]
    order = events[np.concatenate(random_runs(features.people(events), config.rows_per_user, rng))]
    batch = config.batch(int(np.count_nonzero(features.parts <= Part.TRAIN)))
    model.train()
    losses = []
    for step, start in enumerate(range(0, len(order), batch), start=1):
        events = order[start : start + batch]
        read = encoding.of_step(model, features, events, rng)
        loss = batch_loss(model, read, events, Hiding(config.corruption, rng))
        if not torch.isfinite(loss):
            raise TrainError(
                f"the loss of epoch {epoch}, step {step} is {loss.item()}: are the numbers of the data sane?"
            )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        average_weights(average, model, at.step + step, config.averaging)
        losses.append(loss.item())
        progress(epoch, at.of_epoch + step, losses[-1])
    return _Position(at.step + len(losses), at.chunk + 1, at.of_epoch + len(losses), at.loss + sum(losses))


def chunk_count(rows: int) -> int:
    """Return the chunks of an epoch, each of up to CHUNK rows and about as large as the others."""
    return -(-rows // CHUNK)


def random_chunk(rows: int, chunk: int, seed: list[int]) -> NDArray[np.int64]:
    """Return the rows of one of an epoch's chunks, in order: blocks of neighbours, because rows of one page are read
    together, drawn by `seed`."""
    blocks = np.random.default_rng([*seed, rows]).permutation(-(-rows // BLOCK))
    starts = BLOCK * np.sort(np.array_split(blocks, chunk_count(rows))[chunk])
    found: NDArray[np.int64] = (starts[:, None] + np.arange(BLOCK)).reshape(-1)
    return found[found < rows]


@torch.no_grad()
def average_weights(average: nn.Module, model: nn.Module, step: int, power: float) -> None:
    """Add the weights after step 1, 2, … to their average, in which step t counts about t^(`power` − 1).

    Polynomial-decay averaging (Shamir and Zhang, ICML 2013, section 4). The window grows during training, so that the
    average becomes ever steadier.
    """
    share = power / (step + power - 1)
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), share)


def random_runs(
    entities: NDArray[np.int32] | NDArray[np.int64], longest: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return the positions of all rows, given their entities, in random runs of up to `longest` rows of one entity."""
    order = np.lexsort((rng.random(len(entities)), entities))
    held = entities[order]
    starts = np.flatnonzero(np.append(True, held[1:] != held[:-1]))
    within = np.arange(len(held)) - np.repeat(starts, np.diff(np.append(starts, len(held))))
    runs = np.split(order, np.flatnonzero(within % longest == 0)[1:])
    return [runs[at] for at in rng.permutation(len(runs))]


@torch.no_grad()
def predict_opinions(model: TrainedRanker, features: Features, events: NDArray[np.int64]) -> Opinions:
    """Return `Ranker.opinions` of events, in double precision on the CPU."""
    model.eval()
    features, parts = model.adaptors.adapt(features), chunks(len(events), _PREDICT_ROWS)
    return _joined([batch_opinions(model, features, events[part]) for part in parts])


def _joined(parts: Sequence[Opinions]) -> Opinions:
    """Return the opinions of all parts' rows, in double precision on the CPU."""
    known = ([one for one in column if one is not None] for column in zip(*parts, strict=True))
    return Opinions._make(torch.cat(column).cpu().double() if column else None for column in known)


def predict_logits(model: TrainedRanker, features: Features, events: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return uncalibrated logits [len(events)]."""
    return _blended(model, predict_opinions(model, features, events))


def _blended(model: TrainedRanker, opinions: Opinions) -> NDArray[np.float64]:
    logits: NDArray[np.float64] = model.ranker.blended(opinions).numpy()
    return logits


def predict_conversions(model: TrainedRanker, features: Features, events: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return calibrated probabilities [len(events)] that a click converts. The model must have that head."""
    logits = np.asarray(predict_opinions(model, features, events).conversion)
    return sigmoid(model.conversion_calibrator.curve()(logits))


def predict(model: TrainedRanker, features: Features, events: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return calibrated click probabilities [len(events)]."""
    return sigmoid(model.calibrator.curve()(predict_logits(model, features, events)))
