"""The HTTP server of one worker: uvicorn, whose connections come over the channel, and which loses none at its end."""

import asyncio
import gc
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from types import FrameType

import structlog
import uvicorn
from starlette.datastructures import State
from starlette.types import ASGIApp

from msd.contract.errors import MsdError
from service.balance import Balance
from service.channel import Load, Said, WorkerEnd
from service.entry import Entry
from service.lineup.lineup import Serving
from service.lineup.loader import Loader
from service.lineup.plan import Plan
from service.metrics import Metrics
from service.protocol import Refuses, bounded_protocol
from service.readiness import Readiness
from service.settings import Settings
from service.stores.store import StoreError

_KEEP_ALIVE_S = 75
_TICK_S = 0.05
_LINGER_S = 1.0
_WEIGHING_TICKS = 10


def server_config(
    app: ASGIApp, settings: Settings, metrics: Metrics, balance: Balance, door: Refuses | None
) -> uvicorn.Config:
    """uvicorn without what is not used."""
    return uvicorn.Config(
        app,
        http=bounded_protocol(
            settings.max_header_bytes,
            settings.head_timeout_ms / 1000,
            settings.reply_timeout_ms / 1000,
            metrics,
            balance,
            door,
        ),
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )


class WorkerServer(uvicorn.Server):
    """Asked to drain: every reply tells its client to connect anew. At the channel's end, or by SIGTERM: takes in what
    it was given, answers all who are in, and ends."""

    def __init__(
        self, config: uvicorn.Config, channel: WorkerEnd, parts: State, balance: Balance, entry: Entry
    ) -> None:
        """`parts`: those of the app that it works with (`create_app`)."""
        super().__init__(config)
        self._channel = channel
        self._entry = entry
        self._readiness: Readiness = parts.readiness
        self._serving: Serving = parts.serving
        self._loader: Loader = parts.loader
        self._balance = balance
        self._is_settled = False
        self._arriving: set[asyncio.Task[None]] = set()
        self._loading: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("msd.server")

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """To the end. It listens to no socket of its own."""
        super().run(sockets=[])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the app, and says so."""
        await super().startup(sockets)
        self._channel.serving()
        asyncio.get_running_loop().add_reader(self._channel.socket, self._obey)
        self._entry.open()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Remembers SIGTERM; unlike uvicorn's own it does not raise it again at the end: draining is success."""
        if sig != signal.SIGINT:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        is_over = await super().on_tick(counter)
        if counter % _WEIGHING_TICKS == 0:
            self._balance.weigh(len(self.server_state.connections))
            self._entry.judge_readers(self.server_state.connections)
        if self._serving.tidy():
            self._is_settled = False
        if self._readiness.draining:
            self._send_away()
        elif self._readiness.is_ready and not self._is_settled:
            self._settle()
        return is_over

    def _settle(self) -> None:
        """What lives by now stays: to go through it all again would stop a later collection for tens of ms."""
        self._is_settled = True
        gc.collect()
        gc.freeze()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answers whoever was handed over or is connected, then stops as uvicorn does."""
        self._channel.take_no_more()
        self._drain()
        self._obey()
        asyncio.get_running_loop().remove_reader(self._channel.socket)
        await asyncio.gather(*self._arriving)
        self._entry.close()
        # Whoever is still connected may have a request on the way: the first, or the next on a kept connection.
        await self._answer_while(lambda: bool(self.server_state.connections), _LINGER_S)
        await super().shutdown(sockets)

    def _obey(self) -> None:
        """Takes all that came over the channel."""
        while (command := self._channel.next()) is not None:
            if command == "end":
                asyncio.get_running_loop().remove_reader(self._channel.socket)
                self.should_exit = True
                return
            if command == "drain":
                self._drain()
            elif command == "lost":
                self._log.error("connection_lost", reason="too many open files; raise their limit (ulimit -n)")
                self._balance.lost()
            elif isinstance(command, Load):
                self._run(self._load(command), self._loading)
            else:
                self._run(self._take_in(command), self._arriving)

    def _run(self, work: Coroutine[None, None, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _load(self, command: Load) -> None:
        """Loads another line-up, and says what came of it."""
        plan = Plan.read(command.descriptor)
        try:
            await self._loader.load(plan)
        except StoreError as error:
            self._channel.say(Said(what="refused", generation=plan.generation, reason=str(error), again=True))
        except MsdError as error:
            self._channel.say(Said(what="refused", generation=plan.generation, reason=str(error)))
        except Exception as error:
            self._log.exception("cannot_load", reason=str(error))
            reason = f"the model failed ({type(error).__name__}); the log has the reason"
            self._channel.say(Said(what="refused", generation=plan.generation, reason=reason))
        else:
            self._channel.say(Said(what="loaded", generation=plan.generation))

    async def _take_in(self, connection: socket.socket) -> None:
        if not await self._entry.admit(connection, self._protocol, self.server_state.connections):
            self._balance.lost()
            connection.close()

    def _drain(self) -> None:
        if not self._readiness.draining:
            self._readiness.drain()
            self._log.info("draining")
        self._send_away()

    def _send_away(self) -> None:
        """Lets each reply tell its client to connect anew."""
        self.server_state.default_headers = [
            (b"date", formatdate(usegmt=True).encode()),
            (b"connection", b"close"),
        ]

    async def _answer_while(self, is_needed: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and is_needed():
            self._send_away()
            await asyncio.sleep(_TICK_S)

    def _protocol(self) -> asyncio.Protocol:
        factory = self.config.http_protocol_class
        return factory(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
