"""Writer of the new graph: tensors, deduplicated nodes, folded constants, layout.

Knows names, shapes and numpy, but neither symbolic values (`values`) nor rules.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import helper

from onnx_factorise.shapes import Dim, RuleDoesNotApply, Shape, broadcast, has_items, merged, number, with_dim

Array = NDArray[Any]
_SHARED_ELEMENTS = 64
_FOLDED: Mapping[str, Callable[..., Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Neg": np.negative,
    "MatMul": np.matmul,
    "Concat": lambda *parts, axis: np.concatenate(parts, axis),
    "Transpose": lambda array, perm: np.transpose(array, perm),
    "Expand": lambda array, shape: np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(shape))),
    "ReduceSum": lambda array, axes, keepdims: array.sum(tuple(axes), keepdims=bool(keepdims)),
}


@dataclass(eq=False)
class Tensor:
    """A tensor of the new graph. An axis may be 1 where the plain graph's is longer."""

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    value: Array | None = None
    """Value of a constant."""
    reshaped: "Tensor | None" = None
    """The tensor that this reshapes."""
    made: "tuple[str, tuple[Tensor, ...]]" = ("", ())
    """The operator that makes it, and its inputs."""

    @property
    def varies(self) -> bool:
        """Whether it has the item axis."""
        return has_items(self.shape)


class Emitter:
    """Writer of a graph's nodes. Reads varying lengths from these inputs."""

    def __init__(self, prefix: str, inputs: Iterable[Tensor]) -> None:
        """`prefix`: of all generated names."""
        self._axes = {dim: (tensor, axis) for tensor in inputs for axis, dim in enumerate(tensor.shape)}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Tensor] = {}
        self._prefix, self._made = prefix, 0
        self._seen: dict[Any, Tensor] = {}

    def name(self, of: str) -> str:
        """Return a new name."""
        self._made += 1
        return f"{self._prefix}{of}_{self._made}"

    def constant(self, value: Array, name: str | None = None) -> Tensor:
        """Return a constant; small ones of equal value are shared."""
        value = np.asarray(value)
        key = None
        if name is None and value.size <= _SHARED_ELEMENTS:
            key = (value.dtype.str, value.shape, value.tobytes())
            if key in self._seen:
                return self._seen[key]
        made = Tensor(name or self.name("constant"), value.shape, value.dtype, value)
        self.constants[made.name] = made
        if key is not None:
            self._seen[key] = made
        return made

    def scalar(self, value: float, like: Tensor, rank: int = 0) -> Tensor:
        """Return one number of the dtype of `like`, with `rank` axes."""
        return self.constant(np.full((1,) * rank, value, like.dtype))

    def integers(self, *values: int) -> Tensor:
        """Return a constant list of axes or lengths."""
        return self.constant(np.array(values, np.int64))

    def op(
        self,
        kind: str,
        inputs: Sequence[Tensor],
        shape: Shape,
        dtype: "DTypeLike | None" = None,
        **attributes: Any,  # noqa: ANN401 - what onnx takes
    ) -> Tensor:
        """Return an operator's result on real tensors. `shape`: of the result."""
        key = (kind, tuple(tensor.name for tensor in inputs), repr(sorted(attributes.items())))
        if key in self._seen:
            return self._seen[key]
        folded = self._fold(kind, inputs, attributes)
        if folded is None:
            made = Tensor(self.name(kind), shape, np.dtype(dtype or inputs[0].dtype), made=(kind, tuple(inputs)))
            names = [tensor.name for tensor in inputs]
            self.nodes.append(helper.make_node(kind, names, [made.name], made.name, **attributes))
        else:
            made = folded
        self._seen[key] = made
        return made

    def _fold(self, kind: str, inputs: Sequence[Tensor], attributes: Mapping[str, object]) -> Tensor | None:
        values = [tensor.value for tensor in inputs if tensor.value is not None]
        if kind not in _FOLDED or len(values) < len(inputs):
            return None
        result = _FOLDED[kind](*values, **attributes)
        return self.constant(np.asarray(result, inputs[0].dtype))

    def elementwise(
        self,
        kind: str,
        *inputs: Tensor,
        dtype: "DTypeLike | None" = None,
        **attributes: Any,  # noqa: ANN401 - what onnx takes
    ) -> Tensor:
        """Apply a broadcasting operator."""
        return self.op(kind, inputs, broadcast(*(tensor.shape for tensor in inputs)), dtype, **attributes)

    def add(self, *tensors: Tensor | None) -> Tensor | None:
        """Return the sum, ignoring None."""
        total: Tensor | None = None
        for tensor in tensors:
            if tensor is not None:
                total = tensor if total is None else self.elementwise("Add", total, tensor)
        return total

    def reshape(self, tensor: Tensor, shape: Shape) -> Tensor:
        """Return the elements in another shape. Raises RuleDoesNotApply if several lengths vary, one unknown."""
        if shape == tensor.shape:
            return tensor
        if tensor.value is not None:
            return self.constant(tensor.value.reshape([number(dim) for dim in shape]))
        source = tensor.reshaped or tensor
        if shape == source.shape:
            return source
        varying = sum(isinstance(dim, str) for dim in shape)
        to = self.lengths(shape) if varying > 1 else self.integers(*(-1 if isinstance(d, str) else d for d in shape))
        made = self.op("Reshape", [source, to], shape)
        made.reshaped = source
        return made

    def aligned(self, tensor: Tensor, rank: int) -> Tensor:
        """Prepend axes of 1, up to `rank` axes."""
        missing = rank - len(tensor.shape)
        return self.reshape(tensor, (1,) * missing + tensor.shape) if missing > 0 else tensor

    def lengths(self, dims: Sequence[Dim]) -> Tensor:
        """Return a tensor of lengths, which may include the number of candidates."""
        parts = [self._length(dim) for dim in dims]
        return parts[0] if len(parts) == 1 else self.op("Concat", parts, (len(parts),), axis=0)

    def can_tell(self, dim: Dim) -> bool:
        """Return whether an axis' length is available in the graph: as a number, or from an input."""
        return isinstance(dim, int) or dim.partition("*")[0] in self._axes

    def _length(self, dim: Dim) -> Tensor:
        if isinstance(dim, int):
            return self.integers(dim)
        if not self.can_tell(dim):
            raise RuleDoesNotApply(f"an axis of varying length ({dim})")
        named, _, factor = dim.partition("*")
        tensor, axis = self._axes[named]
        count = self.op("Shape", [tensor], (1,), np.int64, start=axis, end=axis + 1)
        return self.elementwise("Mul", count, self.integers(int(factor))) if factor else count

    def expand(self, tensor: Tensor, shape: Shape) -> Tensor:
        """Tile to `shape`. Raises RuleDoesNotApply if the tensor does not broadcast to it."""
        tensor = self.aligned(tensor, len(shape))
        if tensor.shape == shape:
            return tensor
        if broadcast(tensor.shape, shape) != shape:
            raise RuleDoesNotApply(f"{tensor.shape} does not broadcast to {shape}")
        # An unchanged length is given as 1, so only new lengths must be known.
        dims = [1 if have == dim else dim for have, dim in zip(tensor.shape, shape, strict=True)]
        return self.op("Expand", [tensor, self.lengths(dims)], shape)

    def filled(self, tensor: Tensor, axis: int, dim: Dim) -> Tensor:
        """Return the tensor with that length of one axis, tiled if it was 1."""
        return tensor if tensor.shape[axis] == dim else self.expand(tensor, with_dim(tensor.shape, axis, dim))

    def cut(self, tensor: Tensor, axis: int, start: int, end: int) -> Tensor:
        """Return an axis' range from `start` up to `end`; an axis of 1 stands for any length."""
        if tensor.shape[axis] == 1 or (start, end) == (0, tensor.shape[axis]):
            return tensor
        if tensor.value is not None:
            return self.constant(tensor.value[(slice(None),) * axis + (slice(start, end),)])
        bounds = [self.integers(one) for one in (start, end, axis)]
        return self.op("Slice", [tensor, *bounds], with_dim(tensor.shape, axis, end - start))

    def concat(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        """Concatenate tensors; tile their other axes where needed."""
        if len(tensors) == 1:
            return tensors[0]
        others = broadcast(*(with_dim(tensor.shape, axis, 1) for tensor in tensors))
        total = sum(number(tensor.shape[axis]) for tensor in tensors)
        parts = [self.expand(tensor, with_dim(others, axis, tensor.shape[axis])) for tensor in tensors]
        return self.op("Concat", parts, with_dim(others, axis, total), axis=axis)

    def transpose(self, tensor: Tensor, order: Sequence[int]) -> Tensor:
        """Reorder axes, by a reshape if only axes of 1 move."""
        shape = tuple(tensor.shape[axis] for axis in order)
        moved = [axis for axis in order if tensor.shape[axis] != 1]
        if moved == sorted(moved) and sum(isinstance(dim, str) for dim in shape) <= 1:
            return self.reshape(tensor, shape)
        return self.op("Transpose", [tensor], shape, perm=list(order))

    def reduce(self, kind: str, tensor: Tensor, axis: int) -> Tensor:
        """Reduce one axis to 1."""
        return self.op(kind, [tensor, self.integers(axis)], with_dim(tensor.shape, axis, 1), keepdims=1)

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the matrix product over the last two axes; the others broadcast."""
        batch = broadcast(left.shape[:-2], right.shape[:-2]) if len(left.shape) + len(right.shape) > 4 else ()
        return self.op("MatMul", [left, right], (*batch, left.shape[-2], right.shape[-1]))

    def product(self, rows: Tensor, matrix: Tensor, shape: Shape) -> Tensor:
        """Return […, K] @ [K, M] in the given shape."""
        width = rows.shape[-1]
        flat = rows
        if len(rows.shape) > 2:
            flat = self.reshape(rows, (merged(rows.shape[:-1]), width))
        return self.reshape(self.op("MatMul", [flat, matrix], (flat.shape[0], matrix.shape[1])), shape)
