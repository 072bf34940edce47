"""Draws what was decided in made-up nights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lab.nights.made_night import KINDS
from lab.nights.simulated import GOOD
from msd.page import to_svg

_OF_ROLLOUT = {True: ("promoted", "o", "#0b6e4f"), False: ("old bundle stays", "x", "#c46a1b")}


def draw_decisions(nights: Sequence[Mapping[str, Any]]) -> str:
    """Return the gain of each night's new bundle by kind, and what gate and rollout decided."""
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    axes = figure.subplots()
    spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(nights))
    for promoted, (label, marker, colour) in _OF_ROLLOUT.items():
        at = [number for number, one in enumerate(nights) if one["rollout"] == promoted]
        x = [KINDS.index(nights[number]["kind"]) + spread[number] for number in at]
        y = [100 * nights[number]["gain"] for number in at]
        axes.scatter(x, y, 18, marker=marker, color=colour, label=label)
    for bound in (0, 100 * GOOD):
        axes.axhline(bound, linewidth=0.8, color="#888888")
    axes.set_xticks(range(len(KINDS)), KINDS)
    axes.set(ylabel="gain of revenue by the law, %")
    axes.set_yscale("symlog", linthresh=5)
    axes.legend(frameon=False, fontsize=8)
    return to_svg(figure)
