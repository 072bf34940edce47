"""What can be wrong with a catalogue."""

from msd.contract.errors import MsdError


class CatalogueError(MsdError):
    """A shard, a part or the record of a catalogue is missing, damaged, or not what it has to be."""


class WrongValue(CatalogueError):
    """A value that no row can be made of. `place` is of the row among those that were given, from 0."""

    def __init__(self, place: int, what: str) -> None:
        super().__init__(what)
        self.place = place
        self.what = what
