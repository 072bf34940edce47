"""What goes wrong where live states are kept."""

from msd.contract.errors import MsdError


class LiveError(MsdError):
    """States cannot be read, or events not be made to last; the message says why."""
