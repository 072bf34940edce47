"""One model in one world: its predictions, made once and stored, and what is measured of them."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lab.benchmark.predictions import Predictions
from lab.worlds.bench import Bench, Rows
from lab.worlds.law import Floats
from lab.worlds.networks import fit_network
from lab.worlds.recipe import WorldError
from lab.worlds.rivals import FITS, Predict, clicks_of, conversions_of
from lab.worlds.world import Ready
from msd.demo.steps import Steps
from msd.evaluation.regression import Outcomes
from msd.metrics import mean_logloss, measure, roc_auc
from msd.ranker.features import Features
from msd.ranker.model import NetworkName
from msd.student.vectors import load_vectors
from msd.training.folder import load_ranker
from msd.training.train import predict, predict_conversions

LAW, OURS = "law", "ours"
NETWORKS: tuple[NetworkName, ...] = ("deepfm", "din", "dcnv2")
MODELS = (*FITS, *NETWORKS, OURS, LAW)
PAGE = 4
"""Places of a page."""
Cell = Callable[[Bench, Path], Predictions]


def cell_of(model: str) -> Cell:
    """Return what makes a model's predictions in a world, given a folder for its files. Raises WorldError."""
    if model == LAW:
        return _law
    if model in FITS:
        return lambda bench, _: _rival(bench, model)
    if model == OURS:
        return _ours
    for network in NETWORKS:
        if network == model:
            return partial(_network, network=network)
    raise WorldError(f"there is no model {model!r}; there are {', '.join(MODELS)}")


def figures_of(bench: Bench, found: Mapping[str, Floats]) -> dict[str, float | None]:
    """Return a cell's figures from its predictions; None for what the world does not have.

    auc, logloss: of test rows. within_auc: of requests. first_ecpm, page_ecpm: expected revenue per 1,000 requests of
    the first place and of a page. predicted_over_law: mean prediction over mean truth of test rows.
    """
    labels, weights = _labels(bench)
    test = found["test"]
    figures: dict[str, float | None] = {
        "auc": roc_auc(labels, test, weights),
        "within_auc": None,
        "logloss": mean_logloss(labels, test, weights),
        "first_ecpm": None,
        "page_ecpm": None,
        "predicted_over_law": None if bench.truth is None else float(test.mean() / bench.truth.mean()),
        "seconds": round(float(found["seconds"]), 1),
    }
    if bench.groups is not None:
        figures["within_auc"] = measure(labels, found["within"], bench.groups, weights)["gauc"]
    if auctions := bench.auctions:
        paid = found["candidates"] * found["conversions"]
        within = auctions.within_auc(found["candidates"])
        figures["within_auc"] = None if np.isnan(within) else within
        figures["first_ecpm"], figures["page_ecpm"] = auctions.revenue(paid), auctions.revenue(paid, PAGE)
    return figures


def _labels(bench: Bench) -> tuple[Floats, Floats]:
    events = bench.data.events[bench.test]
    weights = events["impressions"] if "impressions" in events.columns else events.select(one=1.0)["one"]
    return events["label"].to_numpy().astype(np.float64), np.resize(weights.to_numpy(), events.height)


def _law(bench: Bench, _: Path) -> Predictions:
    if bench.truth is None or bench.auctions is None:
        raise WorldError("only a made world has a law")
    of_click = bench.auctions.paid / bench.auctions.chances
    found = {"test": bench.truth, "candidates": bench.auctions.chances.ravel(), "conversions": of_click.ravel()}
    return Predictions(found, 0.0)


def _rival(bench: Bench, model: str) -> Predictions:
    start = time.perf_counter()
    clicks = FITS[model](bench, clicks_of(bench))
    of_clicks = conversions_of(bench)
    conversions = FITS[model](bench, of_clicks) if of_clicks and model != "click_rates" else None
    return Predictions(_views(bench, clicks, conversions), time.perf_counter() - start)


def _network(bench: Bench, folder: Path, network: NetworkName) -> Predictions:
    """Fit a network of the literature, which sees the texts that ours sees."""
    start, student = time.perf_counter(), _student(bench.ready, folder)
    vectors = load_vectors(student) if student else None
    view = _Views(lambda features: bench.with_vectors(features, vectors, user_vectors=False) if vectors else features)

    def fitted(outcomes: Outcomes) -> Predict:
        found = fit_network(view(bench.features), outcomes, network)
        return lambda features, rows: found(view(features), rows)

    of_clicks = conversions_of(bench)
    views = _views(bench, fitted(clicks_of(bench)), fitted(of_clicks) if of_clicks else None)
    return Predictions(views, time.perf_counter() - start)


def _ours(bench: Bench, folder: Path) -> Predictions:
    start = time.perf_counter()
    _train_ours(bench.ready, folder)
    return Predictions(predict_ours(bench, folder), time.perf_counter() - start)


def export_ours(ready: Ready, folder: Path) -> Path:
    """Train ours of a world in a folder, and return its bundle."""
    student, bundle = _train_ours(ready, folder), folder / "bundle"
    _steps().call("export", "export", ready.folder, *([student] if student else []), folder / "model", bundle)
    return bundle


def _train_ours(ready: Ready, folder: Path) -> Path | None:
    """Train by the product's own commands; return the student, None without texts."""
    student = _student(ready, folder)
    _steps().call("train", "train", ready.folder, *([student] if student else ["--no-semantics"]), folder / "model")
    return student


def predict_ours(bench: Bench, folder: Path) -> dict[str, Floats]:
    """Return the predictions of a trained model. Raises WorldError if it read other columns."""
    model = folder / "model"
    trained, record = load_ranker(model)
    vectors = load_vectors(_student_of(folder)) if trained.schema.semantic("item") else None
    has_users = trained.schema.semantic("user") is not None
    view = _Views(
        lambda features: bench.with_vectors(features, vectors, user_vectors=has_users) if vectors else features
    )
    if view(bench.features).schema.schema_hash != record.feature_schema.schema_hash:
        raise WorldError(f"{model}: was trained on other columns than those of {bench.ready.folder}; remove it")

    def clicks(features: Features, rows: Rows) -> Floats:
        return predict(trained, view(features), rows)

    def conversions(features: Features, rows: Rows) -> Floats:
        return predict_conversions(trained, view(features), rows)

    return _views(bench, clicks, conversions if trained.has_conversions else None)


def _student_of(folder: Path) -> Path:
    return folder.parent / "student"


def _student(ready: Ready, folder: Path) -> Path | None:
    """Return the student that all networks of the world share, distilled now unless it is there; None without texts."""
    if not ready.texts:
        return None
    student = _student_of(folder)
    words: list[str | Path] = [ready.knowledge] if ready.knowledge else []
    _steps().call("distil", "distill", ready.folder, *words, student, "--no-users")
    return student


def _steps() -> Steps:
    return Steps(Console(stderr=True, highlight=False), 1)


class _Views:
    """Features as a model reads them, made once."""

    def __init__(self, view: Callable[[Features], Features]) -> None:
        self._view = view
        self._made: dict[int, Features] = {}

    def __call__(self, features: Features) -> Features:
        if id(features) not in self._made:
            self._made[id(features)] = self._view(features)
        return self._made[id(features)]


def _views(bench: Bench, clicks: Predict, conversions: Predict | None) -> dict[str, Floats]:
    """Return the predictions of test rows, of candidates, and of test rows within requests."""
    found: dict[str, Any] = {"test": clicks(bench.features, bench.test)}
    if bench.auctions:
        found["candidates"] = clicks(bench.features, bench.candidates)
        found["conversions"] = np.ones(len(bench.candidates))
        if conversions:
            found["conversions"] = conversions(bench.features, bench.candidates)
    if bench.within == "visit":
        found["within"] = clicks(bench.late, bench.test)
    elif bench.within == "user":
        found["within"] = found["test"]
    return found
