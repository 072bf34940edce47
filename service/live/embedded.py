"""Live states in a file on this machine: read here, by every worker, and written by the recorder alone."""

from collections.abc import Sequence
from pathlib import Path

from msd.contract.rows import RowSide
from service.live.batch import Batch, Outcome
from service.live.errors import LiveError
from service.live.recorder import outcome_of
from service.live.state_file import StateFile
from service.live.store import States
from service.side_client import SideClient, SideError

_TIMEOUT_S = 5.0


class EmbeddedStates:
    """Reads a file that the supervisor has made before any worker started; `recorder` is the writer's socket."""

    is_local = True

    def __init__(self, file: StateFile, recorder: Path) -> None:
        self._file = file
        self._recorder = SideClient("recorder", recorder)

    async def get(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> States:
        """Read from memory that the machine's processes share, so without waiting."""
        return self._file.read(side, ids)

    async def add(self, batch: Batch) -> Outcome:
        """By way of the recorder, which answers when the disk has it."""
        try:
            return outcome_of(await self._recorder.ask(batch.pack(), _TIMEOUT_S))
        except SideError as error:
            raise LiveError(str(error)) from error

    async def close(self) -> None:
        """Lets go of file and connection."""
        await self._recorder.close()
        self._file.close()
