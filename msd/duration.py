"""Estimates of steps' durations on this machine, from counts of texts and rows and measured unit costs. Costs are
seconds on a two-core reference machine; a probe compares this machine, beside all that runs on it, with that one.
"""

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Self

import numpy as np

from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events

_SIDE, _PRODUCTS, _MOMENT_S = 64, 32, 0.4
_MOST_CORES = 4
_RATE = 150e9  # operations per second of the reference machine, with both cores, in such products
_MOST_TOKENS, _TOKEN_CHARS = 128, 4.5
_ENCODED_TOKEN = 0.36e-3
_STARTED = 8.0
_WALKED_ROW = 0.03e-3
USUAL_EPOCHS = 8
_EPOCH, _TRAINED_ROW, _JUDGED_ROW = 2.0, 0.12e-3, 0.05e-3
_GROWN_ROW, _MEASURED_ROW, _RESAMPLED_ROW = 0.08e-3, 0.4e-3, 0.15e-6
_UNITS = 2  # users and rows are resampled
_PROVED = 8e-3


class Machine(NamedTuple):
    """Slowdown of this machine against the idle reference."""

    slowness: float

    @classmethod
    def measured(cls) -> Self:
        """Measure by matrix products on all cores that help, for a moment: other processes count as they are now."""
        cores = min(_MOST_CORES, len(os.sched_getaffinity(0)))
        # One call is many products, each too small to be split between threads.
        matrices, start = np.ones((_PRODUCTS, _SIDE, _SIDE), np.float32), time.perf_counter()

        def multiply(_: int) -> int:
            calls = 0
            while time.perf_counter() - start < _MOMENT_S:
                matrices @ matrices[0]
                calls += 1
            return calls

        with ThreadPoolExecutor(cores) as pool:
            products = _PRODUCTS * sum(pool.map(multiply, range(cores)))
        return cls(_RATE * (time.perf_counter() - start) / (2 * _SIDE**3 * max(1, products)))


class PartRows(NamedTuple):
    """Numbers of a dataset's train, valid and test rows."""

    train: int
    valid: int
    test: int

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """Return the number of each."""
        counts = np.bincount(split_events(dataset.events, dataset.config), minlength=len(Part))
        return cls(int(counts[Part.WINDOW] + counts[Part.TRAIN]), int(counts[Part.VALID]), int(counts[Part.TEST]))


def about(seconds: float) -> str:
    """Return a rounded duration."""
    if seconds < 50:
        return f"about {max(5, round(seconds / 5) * 5)} s on this machine"
    minutes = seconds / 60
    if minutes < 90:
        return f"about {round(minutes) if minutes < 10 else round(minutes / 5) * 5} min on this machine"
    return f"about {seconds / 3600:.1f} h on this machine"


def tokens_of(texts: Iterable[str]) -> float:
    """Estimate the tokens that the student reads of some texts."""
    return sum(min(_MOST_TOKENS, len(text) / _TOKEN_CHARS + 2) for text in texts)


def encoding(machine: Machine, tokens: float) -> float:
    """Return the seconds to encode a number of tokens."""
    return machine.slowness * tokens * _ENCODED_TOKEN


def training(machine: Machine, rows: PartRows, epochs: int) -> float:
    """Return the seconds to train a ranker for a number of epochs."""
    epoch = _EPOCH + rows.train * _TRAINED_ROW + rows.valid * _JUDGED_ROW
    return machine.slowness * (_STARTED + sum(rows) * _WALKED_ROW + epochs * epoch)


def evaluating(machine: Machine, rows: PartRows, models: int, resamples: int, baselines: int = 1) -> float:
    """Return the seconds to measure models on the test rows, beside trees on counts and other baselines."""
    measured = models * _MEASURED_ROW + (models + baselines) * resamples * _UNITS * _RESAMPLED_ROW
    walked = sum(rows) * _WALKED_ROW
    return machine.slowness * (_STARTED + walked + rows.train * _GROWN_ROW + rows.test * measured)


def exporting(machine: Machine, rows: PartRows, requests: int) -> float:
    """Return the seconds to export a bundle and to prove it on a number of requests."""
    return machine.slowness * (_STARTED + sum(rows) * _WALKED_ROW + min(requests, rows.test) * _PROVED)
