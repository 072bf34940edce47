"""Tables and sentences of `msd join --by arm` and `--by policy`."""

from collections.abc import Mapping

from rich.table import Table

from msd.feedback.arms import METRICS, ArmDifference, ArmFigures, Estimate, RatioMismatch
from msd.feedback.policy_value import PolicyValue, Support
from msd.report import table

SURE_MISMATCH = 0.001
"""Below this p the sample ratio is wrong, and no difference is reliable."""
_TITLES = {"ctr": "click rate", "rpm": "revenue a thousand impressions"}


def mismatch_text(mismatch: RatioMismatch) -> str:
    """Return one sentence on the sample ratio."""
    if mismatch.p is None:
        return f"Sample ratio: not tested ({mismatch.told or 'there is one arm'})."
    verdict = (
        "the arms do NOT have the users that their shares say: find out why before you believe any difference"
        if mismatch.p < SURE_MISMATCH
        else "as the shares say"
    )
    return f"Sample ratio: p {mismatch.p:.3g}, {verdict}."


def arms_table(arms: Mapping[str, ArmFigures]) -> Table:
    """Return one row per arm."""
    columns = ("arm", "users", "impressions", "clicks", *_TITLES.values(), "predicted ÷ observed")
    made = table("By arm; intervals are 95 %, by user", columns)
    for arm, figures in arms.items():
        ratio = figures.predicted_over_observed
        counts = (f"{figures.users}", f"{figures.impressions}", f"{figures.clicks}")
        estimates = (_estimate(figures.figures[metric]) for metric in METRICS)
        made.add_row(arm, *counts, *estimates, "-" if ratio is None else f"{ratio:.3f}")
    return made


def policy_table(values: Mapping[str, PolicyValue]) -> Table:
    """Return one row per metric."""
    title = "Value of the first impression; intervals are 95 %, by user"
    made = table(title, ("of", "as logged", "IPS", "SNIPS", "DR"))
    for metric, estimates in values.items():
        made.add_row(_TITLES[metric], *map(_estimate, estimates))
    return made


def differences_table(arms: Mapping[str, ArmFigures]) -> Table:
    """Return one row per metric of each arm except the champion."""
    columns = ("arm", "of", "difference", "relative", "p")
    made = table(f"Differences from {next(iter(arms))}", columns, texts=2)
    for arm, metric, found in _differences(arms):
        relative = "-" if found.relative is None else _percent(found.relative)
        p = "-" if found.p is None else f"{found.p:.3g}"
        made.add_row(arm, _TITLES[metric], _estimate(found.absolute), relative, p)
    return made


def support_text(found: Support, requests: int) -> str:
    """Return one sentence on whether the log can judge the policy."""
    verdict = (
        "as it should be"
        if found.is_whole
        else "NOT 1: the policy chooses what could not be first in the log, or propensities are wrong; do not use IPS"
    )
    return (
        f"{requests} requests, worth {found.effective:.0f}; mean weight {_estimate(found.weight)}, {verdict};"
        f" largest weight {found.largest:.3g}."
    )


def _differences(arms: Mapping[str, ArmFigures]) -> list[tuple[str, str, ArmDifference]]:
    return [
        (arm, metric, one.differences[metric]) for arm, one in arms.items() if one.differences for metric in METRICS
    ]


def _estimate(one: Estimate) -> str:
    return f"{one.value:.4g} ({one.ci95[0]:.4g} to {one.ci95[1]:.4g})"


def _percent(one: Estimate) -> str:
    return f"{100 * one.value:+.2f} % ({100 * one.ci95[0]:+.2f} to {100 * one.ci95[1]:+.2f})"
