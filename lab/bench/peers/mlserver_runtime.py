"""The graph on MLServer, over the Open Inference Protocol; runs in its own environment."""

from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from lab.bench.peers.scorer import Scorer
from lab.bench.peers.wire import unpack


class GraphRuntime(MLModel):  # type: ignore[misc]
    """One model in each of the parallel workers."""

    async def load(self) -> bool:
        """Called in each."""
        self._scorer = Scorer()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Scores [N]."""
        (body,) = Base64Codec.decode_input(payload.inputs[0])
        scores = NumpyCodec.encode_output("pctr", self._scorer(unpack(body)))
        return InferenceResponse(model_name=self.name, outputs=[scores])
