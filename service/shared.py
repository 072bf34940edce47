"""Numbers that all processes of one service share: a row for its supervisor and one for each worker's slot.

Each row is written by one process alone, so nothing has to be locked. Does not know what the numbers mean.
"""

import mmap
import os
import tempfile

ROW_CELLS = 1_024
_CELL_BYTES = 8
SUPERVISOR = 0


class SharedNumbers:
    """`1 + slots` rows of `ROW_CELLS` doubles in memory that has no name: it goes when the last process does."""

    def __init__(self, file_descriptor: int, slots: int) -> None:
        """Maps what `create` made, in this process or in the one that started it."""
        self.file_descriptor = file_descriptor
        self.slots = slots
        row_bytes = ROW_CELLS * _CELL_BYTES
        cells = memoryview(mmap.mmap(file_descriptor, (1 + slots) * row_bytes)).cast("d")
        self.rows = [cells[row * ROW_CELLS : (row + 1) * ROW_CELLS] for row in range(1 + slots)]
        """The supervisor's row, then those of the slots 1, 2, …; a slot keeps its row when its worker is replaced."""

    @classmethod
    def create(cls, slots: int) -> "SharedNumbers":
        """Rows of zeros."""
        size = (1 + slots) * ROW_CELLS * _CELL_BYTES
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("msd-numbers")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, size)
        return cls(descriptor, slots)
