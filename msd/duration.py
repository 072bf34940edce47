"""Estimates of steps' durations on this machine, from counts of texts and rows and measured unit costs. Costs are
seconds on a two-core reference machine; probes compare this machine, beside all that runs on it, with that one.
"""

import hashlib
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Self

import numpy as np

from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events

_SIDE, _PRODUCTS = 64, 256
_CORES, _MOST_CORES = 2, 4  # of the reference machine; the most that help
_CORE = 65e9  # operations per second of one of its cores, in such products
_MOMENT_S, _LEAST_SHARE = 0.25, 0.05
_MOST_TOKENS, _TOKEN_CHARS = 128, 4.5
_ENCODED_TOKEN = 0.17e-3
_STARTED = 8.0
_WALKED_ROW = 0.03e-3
USUAL_EPOCHS = 8
_EPOCH, _TRAINED_ROW, _JUDGED_ROW = 2.0, 0.12e-3, 0.05e-3
_GROWN_ROW, _MEASURED_ROW, _RESAMPLED_ROW = 0.12e-3, 0.6e-3, 0.27e-6
_UNITS = 2  # users and rows are resampled
_PROVED = 12e-3


class Machine(NamedTuple):
    """Slowdown of this machine against the idle reference."""

    slowness: float

    @classmethod
    def measured(cls) -> Self:
        """Measure by matrix products too small to be split between threads, the number of cores, and the share of their
        time that other processes leave."""
        matrix = np.ones((_SIDE, _SIDE), np.float32)
        seconds = []
        for _ in range(_PRODUCTS):
            start = time.perf_counter()
            matrix @ matrix
            seconds.append(time.perf_counter() - start)
        cores = min(_MOST_CORES, len(os.sched_getaffinity(0)))
        # The fastest, which was not interrupted.
        return cls(_CORES / cores * min(seconds) * _CORE / (2 * _SIDE**3) / _share_left(cores))


def _share_left(cores: int) -> float:
    """Return the share of the cores' time that this process gets, by keeping each busy for a moment."""
    block, start, used = bytes(2**20), time.perf_counter(), time.process_time()

    def work(_: int) -> None:
        while time.perf_counter() - start < _MOMENT_S:
            hashlib.sha256(block)

    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(work, range(cores)))
    share = (time.process_time() - used) / (time.perf_counter() - start) / cores
    return min(1.0, max(_LEAST_SHARE, share))


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


def evaluating(machine: Machine, rows: PartRows, models: int, resamples: int) -> float:
    """Return the seconds to measure models on the test rows, beside trees on counts."""
    measured = models * _MEASURED_ROW + (models + 1) * resamples * _UNITS * _RESAMPLED_ROW
    walked = 2 * sum(rows) * _WALKED_ROW
    return machine.slowness * (_STARTED + walked + rows.train * _GROWN_ROW + rows.test * measured)


def exporting(machine: Machine, rows: PartRows, requests: int) -> float:
    """Return the seconds to export a bundle and to prove it on a number of requests."""
    return machine.slowness * (2 * _STARTED + sum(rows) * _WALKED_ROW + min(requests, rows.test) * _PROVED)
