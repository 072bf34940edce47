"""A real HTTP server that answers chat completions, and misbehaves on command."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from msd.teachers.teacher import ModelServer


@dataclass
class Call:
    """One request as it came, and the means to answer it."""

    number: int
    body: dict[str, Any]
    headers: dict[str, str]
    handler: BaseHTTPRequestHandler = field(repr=False)
    closing: threading.Event = field(repr=False)

    @property
    def question(self) -> str:
        return question_of(self.body)

    def send(self, status: int, content: bytes, *, length: int | None = None, **headers: str) -> None:
        """A reply as it is; `length` may lie."""
        self.handler.send_response(status)
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.send_header("Content-Length", str(len(content) if length is None else length))
        self.handler.end_headers()
        self.handler.wfile.write(content)

    def say(self, text: str | None, **more: object) -> None:
        reply = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}], **more}
        self.send(200, json.dumps(reply).encode(), Content_Type="application/json")

    def answer(self, **changes: object) -> None:
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        self.say(json.dumps(right(self.question) | changes), usage=usage)


def question_of(body: dict[str, Any]) -> str:
    """The text that a request asks about, in a repair question too."""
    chat = body["messages"]
    turn = chat[-3] if "cannot be used" in chat[-1]["content"] else chat[-1]
    return str(turn["content"]).removeprefix("<text>\n").removesuffix("\n</text>")


def right(text: str) -> dict[str, object]:
    return {
        "reasoning": "because",
        "explicit": f"E {text}",
        "implicit": f"I {text}",
        "tags": ["a", "b", "c", "d", "e"],
        "known": True,
    }


Behaviour = Callable[[Call], None]


class ChatServer:
    """Listens on a free port while the `with` block lasts; each request is noted and handed to `behave`."""

    def __init__(self, behave: Behaviour = Call.answer) -> None:
        self.calls: list[Call] = []
        self.behave = behave
        self._closing = threading.Event()
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    call = Call(len(outer.calls) + 1, body, headers, self, outer._closing)
                    outer.calls.append(call)
                try:
                    outer.behave(call)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads = False
            request_queue_size = 64

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that went away is no error here."""

        self._server = Listener(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def settings(self, **changes: Any) -> ModelServer:  # noqa: ANN401
        return replace(ModelServer(self.url, "m", timeout=30.0, attempts=3, pause=0.001), **changes)

    @property
    def asked(self) -> list[str]:
        """The texts asked about, repairs included, in the order of arrival."""
        return [call.question for call in self.calls]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """The first request meets the first behaviour, and so on; the last one lasts."""

    def behave(call: Call) -> None:
        behaviours[min(call.number, len(behaviours)) - 1](call)

    return behave


def status(code: int, text: str = "", **headers: str) -> Behaviour:
    return lambda call: call.send(code, text.encode(), length=None, **headers)


def cut_off(call: Call) -> None:
    call.send(200, b'{"choices": [{"mess', length=500, Content_Type="application/json")
    call.handler.close_connection = True


def web_page(call: Call) -> None:
    call.send(200, b"<html>Please log in</html>", Content_Type="text/html")


def drop(call: Call) -> None:
    call.handler.close_connection = True


def silent(call: Call) -> None:
    call.closing.wait()
    call.handler.close_connection = True


def drip(call: Call) -> None:
    """Sends a blank again and again, so that the connection never idles, and never an answer."""
    call.handler.send_response(200)
    call.handler.send_header("Content-Length", "1000000")
    call.handler.end_headers()
    while not call.closing.wait(0.01):
        call.handler.wfile.write(b" ")
    call.handler.close_connection = True
