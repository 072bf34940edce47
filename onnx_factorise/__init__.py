"""Factorises ONNX graphs of rankers: what all items of a request share is computed once. Knows graphs alone."""

from onnx_factorise.errors import CannotRun, FactoriseError
from onnx_factorise.pass_ import Factorised, factorise
from onnx_factorise.proof import prove, prove_widest

__all__ = ["CannotRun", "FactoriseError", "Factorised", "factorise", "prove", "prove_widest"]
