"""Whether a service has an encoder's process beside it."""

from msd.contract.errors import MsdError
from service.cold.text_encoder import can_tokenise
from service.lineup.source import Source
from service.settings import Settings
from service.side_process import SideSpec
from service.trust import Trust

_SIDE = SideSpec("encoder", "service.cold.process")


def encoder_side(settings: Settings) -> SideSpec | None:
    """The process, where the bundles have an encoder and texts can be tokenised. Raises MsdError where it has to be
    and cannot; where bundles follow one another, a later one may have the encoder that the first has not."""
    if settings.encoder == "off":
        return None
    is_asked = settings.encoder == "on"
    if not can_tokenise():
        if is_asked:
            raise MsdError("MSD_ENCODER=on needs tokenizers, which is not installed: pip install 'msd-ctr[encode]'")
        return None
    folders = Source(settings).wanted().folders
    trust = Trust(settings.trusted_keys)
    if any(trust.open(folder, rows=False).encoder_identity is not None for folder in folders):
        return _SIDE
    if not is_asked:
        return None
    if settings.bundle.resolve() in folders and not settings.bundle.is_symlink():
        raise MsdError(
            f"MSD_ENCODER=on, but {settings.bundle} has no encoder that its manifest vouches for: export it again with"
            " a student, or set MSD_ENCODER=auto"
        )
    return _SIDE
