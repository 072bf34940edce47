"""Errors of the export."""

from msd.contract.errors import MsdError


class ExportError(MsdError):
    """The exported graph does not compute what torch computes."""


class CannotRun(ExportError):
    """No available runtime can load or run a graph in its precision."""
