"""Results made up in memory: labels that depend on a hidden taste, and variants that see more or less of it."""

import numpy as np

from lab.benchmark.predictions import Floats, Predictions, TestRows
from lab.benchmark.run import Results
from msd.teachers.knowledge import TeachRecord

ROWS, USERS = 900, 45
TAUGHT = TeachRecord(teacher="made", prompt_version="1", dataset="made", items=1, users=0)


def made_rows(seed: int = 0) -> tuple[TestRows, Floats]:
    """Test rows of users of whom the last third is cold, and what their labels depend on."""
    rng = np.random.default_rng(seed)
    taste = rng.standard_normal(ROWS)
    labels = (rng.random(ROWS) < 1 / (1 + np.exp(-2 * taste))).astype(np.float64)
    users = rng.integers(USERS, size=ROWS)
    return TestRows(labels, users, users < 2 * USERS // 3), taste


def said(taste: Floats, skill: float, seed: int) -> Predictions:
    """What a model of that skill says; with live counts it is a little better."""
    noise = np.random.default_rng(seed).standard_normal((2, len(taste)))
    test, live = (1 / (1 + np.exp(-(one * taste + noise[0]))) for one in (skill, skill + 0.5))
    return Predictions(noise[1], test, live, 0.5 + skill / 10, 10.0 + seed, 5.0)


def made_results(skills: dict[str, tuple[float, int]]) -> Results:
    """Variants by name: their skill and number of seeds; all on the same rows."""
    rows, taste = made_rows()
    found = {
        name: {seed: said(taste, skill, 100 * place + seed) for seed in range(seeds)}
        for place, (name, (skill, seeds)) in enumerate(skills.items())
    }
    most = max(len(by_seed) for by_seed in found.values())
    return Results(dict.fromkeys(range(most), rows), found, 7.0, TAUGHT)
