"""Drawing of the worlds' table: bars per world and model, of AUC and of what the first place earns."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.worlds.cell import LAW
from msd.page import to_svg

_COLOURS = ("#adb5bd", "#c46a1b", "#3b5bdb", "#9c36b5", "#0c8599", "#5c940d", "#0b6e4f", "#212529")


def draw_worlds(found: Mapping[str, Any], models: tuple[str, ...]) -> str:
    """Return the drawing as `<svg>`. Revenue is a share of the law's, so only made worlds have it."""
    colours = dict(zip(models, _COLOURS, strict=True))
    shown = [model for model in models if any(model in world["models"] for world in found.values())]
    figure = Figure(figsize=(max(6.0, 1.1 * len(found)), 6.0), layout="constrained")
    ranking, money = figure.subplots(2, 1)
    auc = {name: {model: one["auc"] for model, one in world["models"].items()} for name, world in found.items()}
    _bars(ranking, auc, shown, colours)
    ranking.set(ylabel="AUC of test rows", ylim=(0.5, None))
    ranking.legend(frameon=False, fontsize=7, ncols=len(shown))
    of_law = {
        name: {
            model: one["first_ecpm"] / world["models"][LAW]["first_ecpm"]
            for model, one in world["models"].items()
            if model != LAW
        }
        for name, world in found.items()
        if LAW in world["models"]
    }
    _bars(money, of_law, [model for model in shown if model != LAW], colours)
    money.axhline(1.0, color="#d1d5db", linewidth=1)
    money.set(ylabel="eCPM of the first place, share of the law's", ylim=(0.5, 1.02))
    return to_svg(figure)


def _bars(axes: Axes, values: Mapping[str, Mapping[str, float]], models: list[str], colours: dict[str, str]) -> None:
    width = 0.8 / max(1, len(models))
    for place, model in enumerate(models):
        known = [(number, held[model]) for number, held in enumerate(values.values()) if model in held]
        x, height = np.array(known, np.float64).reshape(-1, 2).T
        axes.bar(x + (place - (len(models) - 1) / 2) * width, height, width, color=colours[model], label=model)
    axes.set_xticks(range(len(values)), list(values))
