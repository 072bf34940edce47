"""Hidden states below the trained layers: computed once per text, kept in main memory, batched on demand."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from msd.student.encoder import Student, pad, tokenise
from msd.student.lessons import Rows
from msd.student.record import HEAD_DIM, VECTOR_DIM, Vectors

_BATCH = 64


class TextStates:
    """States [T, 384] of n texts after `frozen` layers; float32, so that vectors made from them equal the encoder's."""

    def __init__(
        self, student: Student, texts: Sequence[str], frozen: int, on_batch: Callable[[int], None] | None = None
    ) -> None:
        self.frozen = frozen
        tokens = tokenise(student.tokenizer, texts)
        self.lengths = np.asarray([len(row) for row in tokens], np.int64)
        self._states: list[Tensor] = [torch.empty(0)] * len(tokens)
        order = np.argsort(self.lengths, kind="stable")
        with torch.no_grad():
            for start in range(0, len(order), _BATCH):
                batch = order[start : start + _BATCH]
                ids, mask = (one.to(student.device) for one in pad([tokens[at] for at in batch]))
                states = student.encoder.layers(student.encoder.embed(ids), mask, 0, frozen)
                for at, state in zip(batch, states, strict=True):
                    self._states[at] = state[: self.lengths[at]].clone().cpu()
                if on_batch is not None:
                    on_batch(len(batch))

    def vectors(self, student: Student, rows: Rows) -> Tensor:
        """Return the student's vectors [B, 896] of some texts, in their order; gradients reach the layers above."""
        return student.heads(self.pooled(student, rows))

    def pooled(self, student: Student, rows: Rows) -> Tensor:
        """Return the heads' inputs, [B, 384]."""
        longest = int(self.lengths[rows].max())
        states = torch.zeros(len(rows), longest, self._states[rows[0]].shape[1])
        mask = torch.zeros(len(rows), longest, dtype=torch.int64)
        for at, row in enumerate(rows):
            states[at, : self.lengths[row]] = self._states[row]
            mask[at, : self.lengths[row]] = 1
        states, mask = states.to(student.device), mask.to(student.device)
        return student.encoder.pool(student.encoder.layers(states, mask, self.frozen, student.encoder.depth), mask)

    def all_vectors(self, student: Student) -> Vectors:
        """Return the student's vectors [n, 896] of all texts, without gradients."""
        return self._all(lambda rows: self.vectors(student, rows), VECTOR_DIM).numpy()

    def all_pooled(self, student: Student) -> Tensor:
        """Return the heads' inputs for all texts, [n, 384] in main memory, without gradients."""
        return self._all(lambda rows: self.pooled(student, rows), HEAD_DIM)

    def _all(self, make: Callable[[Rows], Tensor], width: int) -> Tensor:
        result = torch.zeros(len(self._states), width)
        order = np.argsort(self.lengths, kind="stable")
        with torch.no_grad():
            for start in range(0, len(order), _BATCH):
                batch = order[start : start + _BATCH]
                result[batch] = make(batch).cpu()
        return result
