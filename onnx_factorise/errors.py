"""Errors of the pass and its proof."""


class FactoriseError(Exception):
    """A factorised graph that does not compute what the plain one does."""


class CannotRun(FactoriseError):
    """A graph that ONNX Runtime cannot load or run, such as in double precision."""
