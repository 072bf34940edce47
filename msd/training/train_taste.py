"""Fit of the taste's kernel, which takes seconds, before the network is trained beside it."""

import numpy as np
import torch

from msd.dataset.split import Part
from msd.ranker.batch import count_tensors, taste_of
from msd.ranker.features import Features
from msd.ranker.taste import Taste

_STEPS, _ROWS, _RATE = 150, 128, 0.05


def train_taste(taste: Taste, features: Features, seed: int) -> None:
    """Fit the scales so that the taste alone predicts the clicks of window and train rows.

    A dozen numbers need few rows. The learning rate rises and falls once (Smith and Topin 2019), so there is no step
    to choose.
    """
    taste.requires_grad_(True)
    events = features.of_part(Part.WINDOW, Part.TRAIN)
    rng = np.random.default_rng([seed, len(events)])
    optimiser = torch.optim.Adam(taste.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=_STEPS + 1)
    for _ in range(_STEPS):
        chosen = np.sort(rng.choice(events, min(_ROWS, len(events)), replace=False))
        parts = taste_of(taste, features, torch.from_numpy(chosen))
        logits = taste.log_odds(count_tensors(features, chosen), parts)
        optimiser.zero_grad()
        torch.autograd.backward(features.loss_of(logits, chosen))
        optimiser.step()
        schedule.step()
    taste.requires_grad_(False)
