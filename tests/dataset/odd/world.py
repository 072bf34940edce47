"""What really happened in every odd log: impressions with planted effects, and the truth that a reading must give."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

START, ROWS = 1_714_550_400, 1_500
IOS, PRICE = 0.9, -0.4  # logits: of ios against web, and of the price's logarithm
SIDES = {"device": "context categorical", "price": "item numeric"}

Write = Callable[[pl.DataFrame, Path], Path]


@dataclass(frozen=True)
class OddLog:
    """A log with its truth.

    write: writes the truth's frame in its odd notation into a folder, and returns what `msd data init` is given.
    frame: the truth, a row an impression: user (null: anonymous), item, at, label, and features by the name that the
    dataset must have. sides: side and kind by feature; features of other names may be there too.
    position: the feature that must have a value for serving, if any; no other may.
    options: of `init_dataset`; roles by their names.
    asks: the option that the refusal must name, if the log alone does not tell; `answer` is its value.
    refused: a part of the message, if no option helps; the person must repair the log.
    """

    name: str
    odd: str
    write: Write
    frame: Callable[[], pl.DataFrame] = field(default_factory=lambda: world)
    sides: Mapping[str, str] = field(default_factory=lambda: SIDES)
    position: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    asks: str = ""
    answer: object = None
    refused: str = ""

    @property
    def expected(self) -> str:
        return "refused" if self.refused else f"asks for --{self.asks}" if self.asks else "read"


def world(decimals: int = 3, cheapest: float = 0.218, rows: int = ROWS) -> pl.DataFrame:
    """Impressions of 50 users and 40 items; prices from `cheapest` to 2,000 times as much.

    Clicks are drawn systematically along devices and prices, so that a planted effect shows without much chance.
    """
    draws = np.random.default_rng(7)
    items = draws.integers(0, 40, rows)
    prices = np.round(cheapest * 2_000 ** (np.arange(40) / 39), decimals)
    ios = draws.integers(0, 2, rows)
    chance = 1 / (1 + np.exp(-(-0.7 + IOS * ios + PRICE * np.log(prices[items]))))
    order = np.lexsort((prices[items], ios))
    label = np.empty(rows, np.int64)
    label[order] = np.diff(np.floor(np.cumsum(chance[order]) + 0.5), prepend=0)
    return pl.DataFrame(
        {
            "user": [f"u{number}" for number in draws.integers(0, 50, rows)],
            "item": [f"a{number}" for number in items],
            "at": START + 300 * np.arange(rows),
            "label": label,
            "device": np.where(ios == 1, "ios", "web"),
            "price": prices[items],
        }
    )


def planted(frame: pl.DataFrame) -> tuple[float, float]:
    """Return the logits of ios and of the price's logarithm that a logistic regression finds on rows with both."""
    rows = frame.drop_nulls(["device", "price"])
    x = np.stack([np.ones(rows.height), (rows["device"] == "ios").to_numpy(), np.log(rows["price"].to_numpy())], 1)
    y, weights = rows["label"].to_numpy(), np.zeros(3)
    for _ in range(12):  # Newton's method
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        weights += np.linalg.solve(x.T @ (x * (p * (1 - p) + 1e-9)[:, None]), x.T @ (y - p))
    return float(weights[1]), float(weights[2])


def german(value: float | None, pattern: str = ",.3f") -> str:
    """Return a number with a point for thousands, if any, and a decimal comma."""
    return "" if value is None else f"{value:{pattern}}".translate(str.maketrans(",.", ".,"))


def told(frame: pl.DataFrame, **ways: Callable[[Any], object]) -> pl.DataFrame:
    """Return the frame with each named column's values as text."""
    return frame.with_columns(
        pl.Series(name, [str(way(value)) for value in frame[name]], dtype=pl.String) for name, way in ways.items()
    )
