"""Which store of live states the settings ask for. What it needs beyond the service's base is loaded here alone."""

from service.live.errors import LiveError
from service.live.store import LiveStore
from service.settings import Settings


def open_live_store(settings: Settings) -> LiveStore:
    """Open the store of live states. Raises LiveError if it cannot be opened."""
    if settings.store == "redis":
        from service.live.redis import RedisStates

        return RedisStates(settings)
    try:
        from service.live.embedded import EmbeddedStates
        from service.live.state_file import StateFile
    except ImportError:
        raise LiveError(
            "MSD_LIVE=on keeps live states in LMDB, which is not installed: pip install 'msd-ctr[live]'"
        ) from None
    assert settings.state_dir is not None, "settings with an embedded live state have its folder"
    horizon_s = settings.event_horizon_hours * 3_600
    return EmbeddedStates(StateFile(settings.state_dir, settings.state_mb * 2**20, horizon_s))
