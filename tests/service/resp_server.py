"""A proxy that can hold back what Redis sends, and a server with the replies of a test."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

import hiredis
from hypothesis import strategies as st

Answer = Callable[[Sequence[bytes]], bytes]


class Proxy:
    """Hands bytes on between clients and a server's port. While it is held, what the server says waits.

    `delay_s`: each piece of what the server says comes so much later. `says`: what comes in place of each piece; with
    it the connection ends if `hangs_up`.
    """

    delay_s = 0.0
    says: bytes | None = None
    hangs_up = False

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._flows = threading.Event()
        self._flows.set()
        self._sockets: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def hold(self) -> None:
        """From now on the server's words wait."""
        self._flows.clear()

    def let_go(self) -> None:
        """All that waited goes on."""
        self._flows.set()

    def close(self) -> None:
        self.let_go()
        self._listener.shutdown(socket.SHUT_RDWR)  # ends a wait for clients
        self._accepting.join()
        for end in (self._listener, *self._sockets):
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._sockets.append(server)
            except OSError:
                return
            for source, target, waits in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._carry, args=(source, target, waits), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, waits: bool) -> None:
        try:
            while data := source.recv(65_536):
                if waits:
                    self._flows.wait()
                    time.sleep(self.delay_s)
                if waits and self.says is not None:
                    data = self.says
                    if self.hangs_up:
                        target.sendall(data)
                        break
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


@contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()


@asynccontextmanager
async def server_that(answer: Answer) -> AsyncIterator[str]:
    """The URL of a server that greets as Redis does, and sends what `answer` makes of every other command."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        # A client that closes with replies unread resets the connection.
        with suppress(ConnectionResetError):
            while data := await reader.read(65_536):
                commands.feed(data)
                while command := commands.gets():
                    greeting = {b"HELLO": b"%1\r\n+proto\r\n:3\r\n", b"CLIENT": b"+OK\r\n", b"PING": b"+PONG\r\n"}
                    writer.write(greeting.get(command[0]) or answer(command))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()


def bulk(value: bytes | None) -> bytes:
    return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


def values(*given: bytes | None) -> bytes:
    return b"*%d\r\n" % len(given) + b"".join(map(bulk, given))


def changed(*keys: bytes) -> bytes:
    return b">2\r\n" + bulk(b"invalidate") + values(*keys)


SCALARS = st.one_of(
    st.binary(max_size=40).map(lambda value: b"$%d\r\n%b\r\n" % (len(value), value)),
    st.sampled_from([b"$-1\r\n", b"_\r\n", b":7\r\n", b"+OK\r\n", b"-ERR no\r\n", b"#t\r\n", b",1.5\r\n", b"(1\r\n"]),
    st.just(b"$3\r\nabc\r\n"),
)


def aggregates(children: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Lists, pushes and maps of some elements."""
    lists = st.tuples(st.sampled_from(b"*>"), st.lists(children, max_size=6)).map(
        lambda drawn: b"%c%d\r\n%b" % (drawn[0], len(drawn[1]), b"".join(drawn[1]))
    )
    maps = st.lists(st.tuples(SCALARS, children), max_size=3).map(
        lambda pairs: b"%%%d\r\n%b" % (len(pairs), b"".join(map(b"".join, pairs)))
    )
    return lists | maps


REPLIES = st.lists(st.recursive(SCALARS, aggregates, max_leaves=6), min_size=1, max_size=3)
