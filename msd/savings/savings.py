"""Savings against a language model at request time, and the cost of semantics: the same pages scored by a service, by
the service of the same ranker without semantics, and by a language model.
"""

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd.benchmark.machine import machine_now
from msd.contract.bundle import open_bundle
from msd.contract.errors import MsdError
from msd.dataset.load import Dataset, load_dataset
from msd.process import peak_resident, resident
from msd.ranker.bootstrap import interval, resample_metrics
from msd.ranker.metrics import roc_auc
from msd.report import Heard
from msd.savings.capacity import Assumed, RequestCost, capacity
from msd.savings.language_model import LoadedLanguageModel
from msd.savings.pages import Page, pages_of
from msd.savings.served import served

_RESAMPLES = 1_000
Scores = list[NDArray[np.float64]]


@dataclass(frozen=True)
class SavingsPlan:
    """Size of the measurement: `users` pages are compared. `requests` requests are timed per service, and `long_pages`
    pages of all `candidates` on the language model."""

    users: int = 40
    candidates: int = 200
    requests: int = 500
    long_pages: int = 3


def savings(
    data: Path, bundle: Path, without: Path, model: Path, work: Path, plan: SavingsPlan, assumed: Assumed, heard: Heard
) -> dict[str, Any]:
    """Return all figures, ready for JSON. Raises MsdError if data, bundles or the model are invalid."""
    dataset = load_dataset(data)
    context = list(open_bundle(bundle).schema.settable["context"])
    pages = pages_of(dataset, context, plan.users, plan.candidates)
    candidates = min(len(page.items) for page in pages)
    ways: dict[str, tuple[RequestCost, Scores]] = {}
    for name, folder in (("service", bundle), ("without_semantics", without)):
        told = partial(_told, heard, name, plan.requests)
        ways[name] = served(name, folder, pages, candidates, plan.requests, work, told)
    spent, scores, parameters = _asked(model, dataset, pages, candidates, plan.long_pages, heard)
    ways["language_model"] = spent, scores
    found = {name: _figures(one, capacity(one, assumed)._asdict()) for name, (one, _) in ways.items()}
    return {
        "ways": found,
        **_compared(pages, {name: scores for name, (_, scores) in ways.items()}),
        "language_model": {"name": model.name, "parameters": parameters},
        "assumed": assumed._asdict(),
        "machine": machine_now(),
    }


def _asked(
    path: Path, dataset: Dataset, pages: Sequence[Page], candidates: int, long_pages: int, heard: Heard
) -> tuple[RequestCost, Scores, int]:
    """Return the language model's cost for a page of all candidates, its scores, and its number of parameters."""
    titles = dict(dataset.items.select("item_id", "title").iter_rows()) if "title" in dataset.items.columns else {}
    if not titles:
        raise MsdError(f"{dataset.folder}: items have no titles to tell a language model of")
    before, model = resident(os.getpid()), LoadedLanguageModel(path)

    def asked(page: Page, count: int) -> NDArray[np.float64]:
        named = [[titles.get(item) or item for item in items] for items in (page.liked, page.items[:count])]
        return model.scores(*named)

    scores = []
    for number, page in enumerate(pages, 1):
        scores.append(asked(page, len(page.labels)))
        heard("language model", number, len(pages) + long_pages)
    seconds, taken = [], time.process_time()
    for number, page in enumerate(pages[:long_pages], len(pages) + 1):
        start = time.perf_counter()
        asked(page, candidates)
        seconds.append(time.perf_counter() - start)
        heard("language model", number, len(pages) + long_pages)
    cpu_s = (time.process_time() - taken) / len(seconds)
    # Excludes Python and its libraries, which favours the language model.
    memory = peak_resident(os.getpid()) - before
    return RequestCost(candidates, statistics.median(seconds), cpu_s, memory), scores, model.parameters


def _told(heard: Heard, name: str, total: int, done: int) -> None:
    heard(name, done, total)


def _figures(spent: RequestCost, needed: dict[str, float]) -> dict[str, Any]:
    return {
        "p50_ms": round(spent.p50_s * 1e3, 3),
        "cpu_ms": round(spent.cpu_s * 1e3, 3),
        "memory_mb": round(spent.memory / 2**20, 1),
        "candidates": spent.candidates,
        "capacity": needed,
    }


def _compared(pages: Sequence[Page], scores: dict[str, Scores]) -> dict[str, Any]:
    """Return the AUC of each way over all labelled rows, and 95 % intervals over users of the service's lead."""
    labels = np.concatenate([page.labels for page in pages]).astype(np.float64)
    users = np.repeat(np.arange(len(pages)), [len(page.labels) for page in pages])
    stacked = np.stack([np.concatenate(scores[name]) for name in scores])
    whole = [roc_auc(labels, one) for one in stacked]
    drawn = resample_metrics(labels, stacked, users, _RESAMPLES).auc
    ends = {name: interval(drawn[0] - drawn[place]) for place, name in enumerate(scores) if place}
    return {
        "rows": len(labels),
        "users": len(pages),
        "auc": {name: round(float(auc), 4) for name, auc in zip(scores, whole, strict=True)},
        "gain_interval": {name: end and [round(one, 4) for one in end] for name, end in ends.items()},
    }
