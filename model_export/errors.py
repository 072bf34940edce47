"""Why an export was refused."""

from msd.contract.errors import MsdError


class ExportError(MsdError):
    """The exported graph does not compute what torch computes."""
