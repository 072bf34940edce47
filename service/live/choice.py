"""Which store of live states the settings ask for. What it needs beyond the service's base is loaded here alone."""

from pathlib import Path
from typing import TYPE_CHECKING

from service.live.errors import LiveError
from service.live.store import LiveStore
from service.settings import Settings
from service.side_process import side_socket

if TYPE_CHECKING:
    from service.live.state_file import StateFile


def open_state_file(settings: Settings, is_writer: bool) -> "StateFile":
    """The file in MSD_STATE_DIR. Raises LiveError when it cannot be had."""
    try:
        from service.live.state_file import StateFile
    except ImportError:
        raise LiveError(
            "MSD_LIVE=on keeps live states in LMDB, which is not installed: pip install 'msd-ctr[live]'"
        ) from None
    assert settings.state_dir is not None, "settings with an embedded live state have its folder"
    horizon_s = settings.event_horizon_hours * 3_600
    return StateFile(settings.state_dir, settings.state_mb * 2**20, is_writer, horizon_s)


def open_live_store(settings: Settings, side_folder: Path | None) -> LiveStore:
    """Raises LiveError when states cannot be had."""
    if settings.store == "redis":
        from service.live.redis import RedisStates

        return RedisStates(settings)
    from service.live.embedded import EmbeddedStates

    if side_folder is None:
        raise LiveError("MSD_LIVE=on needs the recorder, which runs beside the workers of `msd serve` alone")
    return EmbeddedStates(open_state_file(settings, is_writer=False), side_socket(side_folder, "recorder"))
