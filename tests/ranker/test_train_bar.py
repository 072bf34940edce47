"""The bar of `msd train`: its clock runs from the first epoch to the last."""

from io import StringIO

import pytest
from rich.console import Console

from msd.training.train_command import training_bar


@pytest.mark.parametrize("steps", [2, None])
def test_the_clock_goes_on_after_an_epoch(steps: int | None) -> None:
    seconds = [0.0]
    out = StringIO()
    with training_bar(Console(file=out, width=100, get_time=lambda: seconds[0]), "train", steps) as hear:
        for epoch in (1, 2, 3):
            for step in (1, 2):
                seconds[0] += 5.0
                hear(epoch, step, 0.25)
    assert "train, epoch 3" in out.getvalue()
    assert "0:00:30 step 2, loss 0.2500" in out.getvalue()
