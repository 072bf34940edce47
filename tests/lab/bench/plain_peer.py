"""A peer for tests, in our own environment: the graph behind a raw ASGI app."""

import json
import os
from typing import Any

import uvicorn

from lab.bench.peers.scorer import PORT, Scorer
from lab.bench.peers.wire import unpack


class App:
    """Scores, a little wrong if it is told to."""

    def __init__(self) -> None:
        self._scorer = Scorer()
        self._error = float(os.environ.get("PLAIN_PEER_ERROR", "0"))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - as ASGI has it
        """Answers anything."""
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        reply = b"{}"
        if scope["method"] == "POST":
            reply = json.dumps({"pctr": (self._scorer(unpack(body)) + self._error).tolist()}).encode()
        headers = [(b"content-length", str(len(reply)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})


if __name__ == "__main__":
    uvicorn.run(App(), host="127.0.0.1", port=int(os.environ[PORT]), lifespan="off", log_level="warning")
