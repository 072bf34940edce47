"""Errors of the export."""

from msd.contract.errors import MsdError


class ExportError(MsdError):
    """An export that is impossible with these inputs, or a graph whose scores are not its model's."""
