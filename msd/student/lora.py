"""LoRA (arXiv 2106.09685) of a student's top layers, over states of the layers below, which are made once per text.

Knows the student, not what it is tuned for.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from msd.student.encoder import Student, pad, pool, run_layers, tokenise, with_words
from msd.student.record import MEANING_DIM, VECTOR_DIM, StudentError, Vectors

_TUNED = ("query", "value")  # of a layer's attention, as in the paper's section 4.2
_SCALE = 2.0
_BATCH = 64
Rows = NDArray[np.int64]


class Lora(nn.Module):
    """Low-rank differences of the weights of queries and values in a student's top layers.

    They start at zero: the student's vectors do not change until the differences are trained.
    """

    def __init__(self, rank: int, layers: int) -> None:
        super().__init__()
        names = [f"layers.{layer}.attention.self.{part}" for layer in range(layers) for part in _TUNED]
        self.names = [f"{name}.weight" for name in names]
        self.down, self.up = (nn.ParameterList() for _ in range(2))
        for _ in names:
            self.down.append(torch.randn(rank, MEANING_DIM) / MEANING_DIM**0.5)
            self.up.append(torch.zeros(MEANING_DIM, rank))

    def differences(self) -> dict[str, Tensor]:
        """Return what to add to each tuned weight [384, 384], by its name in `TopLayers`."""
        pairs = zip(self.names, self.up, self.down, strict=True)
        return {name: _SCALE * up @ down for name, up, down in pairs}


class TopLayers(nn.Module):
    """A student's last layers: the hidden states below them to its vectors. Shares the student's weights."""

    def __init__(self, student: Student, layers: int) -> None:
        super().__init__()
        self.layers = student.encoder.bert.encoder.layer[len(student.encoder.bert.encoder.layer) - layers :]
        self.words = student.words

    def forward(self, states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Return vectors [B, 512]."""
        return with_words(pool(run_layers(self.layers, states_BTD, mask_BT), mask_BT), self.words)


class TextStates:
    """Hidden states [T, 384] of n texts, at least one, below a student's top layers, in a mapped file: float32, so that
    the vectors made from them are the encoder's. Raises StudentError if the disk is too small for them."""

    def __init__(self, student: Student, texts: Sequence[str], layers: int, file: Path) -> None:
        self.top, below = TopLayers(student, layers), len(student.encoder.bert.encoder.layer) - layers
        tokens = tokenise(student.tokenizer, texts)
        self.ends = np.cumsum([len(row) for row in tokens])
        self.lengths = np.diff(self.ends, prepend=0)
        shape = (int(self.ends[-1]), MEANING_DIM)
        if (free := shutil.disk_usage(file.parent).free) < (needed := 4 * shape[0] * shape[1]):
            raise StudentError(f"{file.parent}: has {free:,} bytes free, but the texts' states need {needed:,}")
        self._states = np.lib.format.open_memmap(file, "w+", np.float32, shape)
        with torch.inference_mode():
            for rows in self._batches():
                ids, mask = pad([tokens[row] for row in rows])
                for row, state in zip(rows, student.encoder.states(ids, mask, below).numpy(), strict=True):
                    self._states[self.ends[row] - self.lengths[row] : self.ends[row]] = state[: self.lengths[row]]

    def vectors(self, lora: Lora | None, rows: Rows) -> Tensor:
        """Return the vectors [B, 512] of texts; gradients reach `lora`."""
        states = np.zeros((len(rows), int(self.lengths[rows].max()), MEANING_DIM), np.float32)
        mask = np.zeros(states.shape[:2], np.float32)
        for at, row in enumerate(rows):
            states[at, : self.lengths[row]] = self._states[self.ends[row] - self.lengths[row] : self.ends[row]]
            mask[at, : self.lengths[row]] = 1.0
        inputs = torch.from_numpy(states), torch.from_numpy(mask)
        if lora is None:
            vectors: Tensor = self.top(*inputs)
            return vectors
        weights = dict(self.top.named_parameters())
        changed = {name: weights[name].detach() + added for name, added in lora.differences().items()}
        tuned: Tensor = functional_call(self.top, changed, inputs)
        return tuned

    @torch.no_grad()
    def all_vectors(self, lora: Lora | None) -> Vectors:
        """Return the vectors [n, 512] of all texts."""
        found = np.zeros((len(self.ends), VECTOR_DIM), np.float32)
        for rows in self._batches():
            found[rows] = self.vectors(lora, rows).numpy()
        return found

    def _batches(self) -> list[Rows]:
        """Return the texts in batches, by length, to reduce padding."""
        order = np.argsort(self.lengths, kind="stable")
        return [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]


@torch.no_grad()
def merge(student: Student, lora: Lora, layers: int) -> None:
    """Add the differences to the student's weights."""
    weights = dict(TopLayers(student, layers).named_parameters())
    for name, added in lora.differences().items():
        weights[name].add_(added)
