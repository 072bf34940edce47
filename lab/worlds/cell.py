"""One model in one world: its predictions, made once and stored, and what is measured of them."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lab.benchmark.predictions import Predictions
from lab.worlds.bench import Bench, Rows
from lab.worlds.law import Floats
from lab.worlds.recipe import WorldError
from lab.worlds.rivals import FITS, Predict, clicks_of, conversions_of
from msd.demo.steps import Steps
from msd.metrics import mean_logloss, measure, roc_auc
from msd.ranker.features import Features
from msd.student.vectors import load_vectors
from msd.training.folder import load_ranker
from msd.training.train import predict, predict_conversions

LAW, OURS = "law", "ours"
NETWORKS = {OURS: "msd", "deepfm": "deepfm", "din": "din", "dcnv2": "dcnv2"}
MODELS = ("click_rates", "lr_crosses", "lightgbm", *(name for name in NETWORKS if name != OURS), OURS, LAW)
PAGE = 4
"""Places of a page."""
Cell = Callable[[Bench, Path], Predictions]


def cell_of(model: str) -> Cell:
    """Return what makes a model's predictions in a world, given a folder for its files. Raises WorldError."""
    if model == LAW:
        return _law
    if model in FITS:
        return lambda bench, _: _rival(bench, model)
    if model in NETWORKS:
        return lambda bench, folder: _network(bench, folder, NETWORKS[model])
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


def _network(bench: Bench, folder: Path, network: str) -> Predictions:
    """Train by the product's own commands. All networks see the same texts, if the world has any."""
    start, steps = time.perf_counter(), Steps(Console(stderr=True, highlight=False), 1)
    student, model = folder.parent / "student", folder / "model"
    given: list[str | Path] = ["--no-semantics"]
    if bench.ready.texts:
        words: list[str | Path] = [bench.ready.knowledge] if bench.ready.knowledge else []
        steps.call("distil", "distill", bench.ready.folder, *words, student, "--no-users")
        given = [student]
    steps.call("train", "train", bench.ready.folder, *given, model, "--network", network)
    trained, record = load_ranker(model)
    vectors = load_vectors(student) if bench.ready.texts else None

    def view(features: Features) -> Features:
        if vectors is None or trained.schema.semantic("item") is None:
            return features
        return bench.with_vectors(features, vectors, user_vectors=trained.schema.semantic("user") is not None)

    views: dict[int, Features] = {}

    def clicks(features: Features, rows: Rows) -> Floats:
        seen = views.setdefault(id(features), view(features))
        if seen.schema.schema_hash != record.feature_schema.schema_hash:
            raise WorldError(f"{model}: was trained on other columns than those of {bench.ready.folder}; remove it")
        return predict(trained, seen, rows)

    conversions: Predict | None = None
    if trained.has_conversions:

        def conversions(features: Features, rows: Rows) -> Floats:
            return predict_conversions(trained, views.setdefault(id(features), view(features)), rows)

    return Predictions(_views(bench, clicks, conversions), time.perf_counter() - start)


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
