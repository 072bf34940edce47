"""A peer for tests: the graph behind a plain HTTP server. Its argument is an error to add to scores, or `mute`."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import onnxruntime

from lab.bench.tensors import decoded

ERROR = "".join(sys.argv[1:])
SESSION = onnxruntime.InferenceSession(os.environ["PEER_GRAPH"], providers=["CPUExecutionProvider"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._reply(b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        (pctr,) = SESSION.run(["pctr"], decoded(json.loads(body)))
        mute = ERROR == "mute"
        self._reply(b"{}" if mute else json.dumps({"pctr": (pctr + float(ERROR or 0)).tolist()}).encode())

    def _reply(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PEER_PORT"])), Handler).serve_forever()
