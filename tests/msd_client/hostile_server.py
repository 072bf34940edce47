"""A server that misbehaves as scripted: `with hostile(Say(...), Reset(), …) as server: …` does one thing a connection
or request after another, and the last of them for ever."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Say:
    """Answers a request: with so many seconds before each of its bytes, where they drip."""

    status: int = 200
    body: bytes = b"{}"
    headers: tuple[str, ...] = ()
    drip_s: float = 0.0
    wait_s: float = 0.0
    length: int | None = None
    """What the head says of the body's length, where that is not so."""
    ends: bool = False

    def reply(self) -> bytes:
        """The bytes of it."""
        length = len(self.body) if self.length is None else self.length
        head = [f"HTTP/1.1 {self.status} X", f"Content-Length: {length}", *self.headers]
        return "\r\n".join([*head, "", ""]).encode() + self.body


@dataclass(frozen=True)
class Reset:
    """Resets the connection once the request has come."""


Act = Say | Reset


@dataclass
class Hostile:
    """Where it listens, the heads of the requests that came, and how many connections there were."""

    url: str
    requests: list[str] = field(default_factory=list)
    connections: int = 0


@contextmanager
def hostile(*acts: Act) -> Iterator[Hostile]:
    """Runs one on a free port."""
    ending = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        server = Hostile(f"http://127.0.0.1:{listener.getsockname()[1]}")
        threads: list[threading.Thread] = []
        accepting = threading.Thread(target=_accept, args=(listener, server, acts, ending, threads))
        accepting.start()
        try:
            yield server
        finally:
            ending.set()
            for thread in (accepting, *threads):
                thread.join()


def _accept(
    listener: socket.socket,
    server: Hostile,
    acts: tuple[Act, ...],
    ending: threading.Event,
    threads: list[threading.Thread],
) -> None:
    while not ending.is_set():
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        server.connections += 1
        threads.append(threading.Thread(target=_serve, args=(connection, server, acts, ending)))
        threads[-1].start()


def _serve(connection: socket.socket, server: Hostile, acts: tuple[Act, ...], ending: threading.Event) -> None:
    with connection:
        connection.settimeout(0.05)
        try:
            while (request := _request(connection, ending)) is not None:
                act = acts[min(len(server.requests), len(acts) - 1)]
                server.requests.append(request)
                if isinstance(act, Reset):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                _say(connection, act, ending)
                if act.ends or act.length is not None:
                    return
        except OSError:
            return


def _request(connection: socket.socket, ending: threading.Event) -> str | None:
    """Head and body of a request; None at the end."""
    data = b""
    while not ending.is_set():
        head, found, body = data.partition(b"\r\n\r\n")
        sizes = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        if found and len(body) >= (int(sizes[0]) if sizes else 0):
            return data.decode()
        try:
            chunk = connection.recv(65_536)
        except TimeoutError:
            continue
        if not chunk:
            return None
        data += chunk
    return None


def _say(connection: socket.socket, act: Say, ending: threading.Event) -> None:
    if act.wait_s:
        ending.wait(act.wait_s)
    if not act.drip_s:
        connection.sendall(act.reply())
        return
    for byte in act.reply():
        if ending.is_set():
            return
        connection.sendall(bytes([byte]))
        time.sleep(act.drip_s)
