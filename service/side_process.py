"""Side processes: auxiliaries that are reached over sockets in a private folder."""

from pathlib import Path
from typing import Literal, NamedTuple

SideName = Literal["recorder", "log", "encoder"]


class SideSpec(NamedTuple):
    """One side process: its name, and the module that is run, whose `main` is `side_server.run_side_process`."""

    name: SideName
    module: str


def side_socket(folder: Path, name: SideName) -> Path:
    """Where the side process of that name listens."""
    return folder / f"{name}.sock"
