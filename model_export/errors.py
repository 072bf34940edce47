"""Why an export was refused."""

from msd.contract.errors import MsdError


class ExportError(MsdError):
    """The exported graph does not compute what torch computes."""


class CannotRun(ExportError):
    """A graph that no runtime here loads, or runs, in its precision."""
