"""A peer for tests: the graph behind a raw ASGI app. Its argument is an error to add to scores, or `mute`."""

import json
import os
import sys
from typing import Any

import onnxruntime
import uvicorn

from lab.bench.tensors import decoded

ERROR = "".join(sys.argv[1:])


class App:
    """Answers anything."""

    def __init__(self) -> None:
        self._session = onnxruntime.InferenceSession(os.environ["PEER_GRAPH"], providers=["CPUExecutionProvider"])

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - as ASGI has it
        """Reply with scores."""
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        reply = b"{}"
        if scope["method"] == "POST" and ERROR != "mute":
            (pctr,) = self._session.run(["pctr"], decoded(json.loads(body)))
            reply = json.dumps({"pctr": (pctr + float(ERROR or 0)).tolist()}).encode()
        headers = [(b"content-length", str(len(reply)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})


if __name__ == "__main__":
    uvicorn.run(App(), host="127.0.0.1", port=int(os.environ["PEER_PORT"]), lifespan="off", log_level="warning")
