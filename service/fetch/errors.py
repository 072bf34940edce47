"""What can be wrong with fetching a bundle: for good, or only now."""

from msd.contract.errors import MsdError


class FetchError(MsdError):
    """The bundle cannot be fetched, and trying again would not help."""


class Unavailable(FetchError):
    """The bundle could not be fetched now; it may be there a moment later."""


class ArchiveError(MsdError):
    """An archive is none of a bundle, or tries to be more than one."""
