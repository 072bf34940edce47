"""A session of ONNX Runtime whose inputs and scores stay where they are, on its device: for each of a few sizes that
candidates are padded to, one set of buffers.

A captured CUDA graph needs it so: it reads and writes where it did when it was captured, and belongs to the thread that
captured it. Hence one thread of the runtime's own makes all runs. Does not know which device it is, nor who captures.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from msd.contract.assemble import Tensors
from msd.contract.bundle import Bundle
from msd.contract.padding import pad_candidates, padded_size, padded_sizes
from service.runtimes.checks import ALONE, GraphForm, check_graph
from service.runtimes.onnxruntime import Provider, inputs_of, new_buffer, run_options
from service.runtimes.runtime import Engine, Scores


@dataclass(frozen=True, slots=True)
class _Size:
    """What a run of so many candidates is bound to: buffers by input, and by head."""

    binding: Any
    options: Any
    inputs: Mapping[str, Any]
    scores: Mapping[str, Any]


class BoundRuntime:
    """Runs of one session, one at a time, whoever asks."""

    def __init__(
        self,
        bundle: Bundle,
        session: Any,  # noqa: ANN401
        device: Provider,
        engine: Engine,
        form: GraphForm = ALONE,
    ) -> None:
        """Raises BundleError when graph and manifest disagree."""
        self.engine = engine
        self._session, self._device = session, device
        outputs = [output.name for output in session.get_outputs()]
        self._heads = check_graph(bundle, form, inputs_of(session), outputs)
        tensors = form.inputs(bundle.schema)
        self._of_candidates = [spec for spec in tensors if spec.side == "item"]
        self._candidate_inputs = [spec.name for spec in self._of_candidates]
        # The users' are of one shape, so all sizes share them.
        self._shared = {
            spec.name: new_buffer((form.requests, *spec.shape), spec.dtype, device)
            for spec in tensors
            if spec.side != "item"
        }
        self._sizes: dict[int, _Size] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bound")

    def run(self, tensors: Tensors) -> Scores:
        """The schema's tensors → scores [N] by head."""
        return self._thread.submit(self._run, tensors).result()

    def warm_up_sizes(self, max_candidates: int) -> Sequence[int]:
        """Every size that candidates may be padded to."""
        return list(padded_sizes(max_candidates))

    def _run(self, tensors: Tensors) -> Scores:
        count = len(tensors[self._candidate_inputs[0]])
        given = pad_candidates(tensors, self._candidate_inputs)
        size = self._bound_to(padded_size(count))
        for name, buffer in size.inputs.items():
            buffer.update_inplace(given[name])
        # What was copied to a card may still be on its way.
        size.binding.synchronize_inputs()
        self._session.run_with_iobinding(size.binding, size.options)
        # Copied, because on a CPU this is the buffer itself.
        return {head: buffer.numpy()[:count].copy() for head, buffer in size.scores.items()}

    def _bound_to(self, count: int) -> _Size:
        """The buffers of a size, made when it is first asked for."""
        if count not in self._sizes:
            inputs = self._shared | {
                spec.name: new_buffer((count, *spec.shape), spec.dtype, self._device) for spec in self._of_candidates
            }
            scores = {head: new_buffer((count,), "float32", self._device) for head in self._heads}
            binding = self._session.io_binding()
            for name, buffer in inputs.items():
                binding.bind_ortvalue_input(name, buffer)
            for head, buffer in scores.items():
                binding.bind_ortvalue_output(head, buffer)
            # By this number the CUDA provider keeps one graph for each size; others do not read it.
            options = run_options({"gpu_graph_id": str(count)})
            self._sizes[count] = _Size(binding, options, inputs, scores)
        return self._sizes[count]
