"""Training of the count model, which takes seconds, before that of the network beside it."""

import numpy as np
import torch

from msd.dataset.split import Part
from msd.ranker.arrays import CHUNK
from msd.ranker.batch import Corruption, Hiding, count_tensors
from msd.ranker.features import Features
from msd.ranker.model import CountModel

_EPOCHS, _ROWS, _RATE, _DECAY = 12, 256, 3e-3, 1e-2


def train_counts(model: CountModel, features: Features, corruption: Corruption, seed: int) -> None:
    """Train it on window and train rows, each once with fresh counts and once as `corruption` changes them: aged or
    unknown. Of many rows, a few hundred thousand are drawn: the model is small.

    The learning rate rises and falls once (Smith and Topin 2019), so there is no epoch to choose.
    """
    events = features.of_part(Part.WINDOW, Part.TRAIN)
    rng = np.random.default_rng([seed, len(events)])
    if len(events) > CHUNK:
        events = np.sort(rng.choice(events, CHUNK, replace=False))
    steps = -(-len(events) // _ROWS)
    model.requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=_EPOCHS * steps + 1)
    for _ in range(_EPOCHS):
        for chosen in np.array_split(rng.permutation(events), steps):
            seen = count_tensors(features, chosen), count_tensors(features, chosen, Hiding(corruption, rng))
            logits = torch.stack([model(tensors) for tensors in seen])
            optimiser.zero_grad()
            torch.autograd.backward(features.loss_of(logits, chosen))
            optimiser.step()
            schedule.step()
    model.requires_grad_(False)
