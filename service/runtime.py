"""Runs a bundle's ranker. The Protocol is what a runtime offers; the one implementation is ONNX Runtime.

Knows tensors and heads. Does not know requests, rows or queues.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from msd.contract.assemble import Tensors
from msd.contract.bundle import RANKER, Bundle, tolerance_key
from msd.contract.errors import BundleError, MsdError
from msd.contract.schema import TensorSpec

Scores = dict[str, NDArray[np.float32]]
Provider = Literal["cpu", "cuda"]
_RESERVED_HEADS = ("id", "ecpm")
_PROVIDERS: Mapping[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# TF32 keeps ten bits of a float's fraction, which no fp32 tolerance forgives.
_OPTIONS: Mapping[Provider, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
_ONNX_TYPES = {"int32": "tensor(int32)", "float32": "tensor(float)"}


class ProviderError(MsdError):
    """The execution provider asked for is not the one that would run."""


class Runtime(Protocol):
    """A loaded ranker."""

    key: str
    """Names runtime, provider and precision in the manifest's tolerances."""

    def run(self, tensors: Tensors) -> Scores:
        """The schema's tensors → scores [N] by head, the first head first."""
        ...

    def describe(self) -> dict[str, Any]:
        """What runs the model, for people."""
        ...


class OnnxRuntime:
    """ONNX Runtime on the provider asked for, and on no other."""

    def __init__(self, bundle: Bundle, provider: Provider, threads: int) -> None:
        """Raises ProviderError when the provider is not to be had, BundleError when graph and manifest disagree."""
        self._heads = _checked_heads(bundle.manifest.heads)
        self._threads = threads
        self._provider = provider
        self.key = tolerance_key("onnxruntime", provider, "fp32")
        self._session = _open_session(bundle.path(RANKER), provider, threads)
        _check_inputs(bundle.path(RANKER), bundle.schema.tensors, self._session.get_inputs())
        _check_outputs(bundle.path(RANKER), self._heads, [output.name for output in self._session.get_outputs()])

    def run(self, tensors: Tensors) -> Scores:
        """The schema's tensors → scores [N] by head."""
        return dict(zip(self._heads, self._session.run(self._heads, tensors), strict=True))

    def describe(self) -> dict[str, Any]:
        """Name, version, provider and threads."""
        import onnxruntime

        return {
            "name": "onnxruntime",
            "version": onnxruntime.__version__,
            "provider": self._provider,
            "threads": self._threads,
            "precision": "fp32",
        }


def _open_session(path: Path, provider: Provider, threads: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(
            "no onnxruntime is installed: pip install 'msd-ctr[cpu]', or 'msd-ctr[gpu]' on a machine with CUDA"
        ) from error
    wanted = _PROVIDERS[provider]
    available = onnxruntime.get_available_providers()
    if wanted not in available:
        raise ProviderError(
            f"provider {provider!r} was asked for, but this onnxruntime has only {', '.join(available)}: "
            + _remedy(provider)
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[(wanted, _OPTIONS[provider])])
    except Exception as error:  # onnxruntime raises a type of its own for each status, with no common base
        raise BundleError(f"{path}: onnxruntime cannot load it: {error}") from error
    got = session.get_providers()[0]
    if got != wanted:
        raise ProviderError(f"provider {provider!r} was asked for, onnxruntime chose {got}: {_remedy(provider)}")
    return session


def _remedy(provider: Provider) -> str:
    if provider == "cuda":
        return "uninstall onnxruntime, pip install 'msd-ctr[gpu]' and check the CUDA driver, or set MSD_PROVIDER=cpu"
    return "pip install 'msd-ctr[cpu]'"


def _checked_heads(heads: Sequence[str]) -> list[str]:
    if heads[0] != "pctr":
        raise BundleError(f"the first head of the bundle is {heads[0]!r}; it has to be 'pctr'")
    for head in heads:
        if head in _RESERVED_HEADS or heads.count(head) > 1:
            raise BundleError(f"the bundle's head {head!r} would be a column of that name twice in a reply")
    return list(heads)


def _check_inputs(path: Path, specs: Sequence[TensorSpec], inputs: Sequence[Any]) -> None:
    by_name = {one.name: one for one in inputs}
    wanted = {spec.name for spec in specs}
    if by_name.keys() != wanted:
        raise BundleError(f"{path}: has the inputs {sorted(by_name)}, the schema gives {sorted(wanted)}")
    for spec in specs:
        found = by_name[spec.name]
        if found.type != _ONNX_TYPES[spec.dtype]:
            raise BundleError(f"{path}: input {spec.name} is a {found.type}, the schema gives {spec.dtype}")
        if tuple(found.shape[1:]) != spec.shape:
            raise BundleError(f"{path}: input {spec.name} has rows of {found.shape[1:]}, the schema {list(spec.shape)}")
        if spec.side == "item" and isinstance(found.shape[0], int):
            raise BundleError(f"{path}: input {spec.name} takes {found.shape[0]} candidates only, not any number")


def _check_outputs(path: Path, heads: Sequence[str], outputs: Sequence[str]) -> None:
    if missing := [head for head in heads if head not in outputs]:
        raise BundleError(f"{path}: has no output {missing[0]!r}; it gives: {', '.join(outputs)}")
