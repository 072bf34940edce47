"""The process that `msd serve` starts: it makes the worker processes, gives each new connection to one of them, and
sees to their ends. It loads no model and reads no request.
"""

import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import structlog

from msd.contract.errors import MsdError
from service.cold.side import encoder_side
from service.cores import usable_cores, worker_count
from service.exchange import Exchange
from service.keys import check_keys
from service.lineup.follower import Follower
from service.lineup.held import private_folder
from service.lineup.rollout import Rollout
from service.lineup.source import Source
from service.listener import accepted, bind, listen, refuse_new
from service.live.choice import open_state_file
from service.logs import configure_logs, keep_standard_streams
from service.metrics import Metrics
from service.request_log.side import log_side
from service.settings import Settings
from service.shared import SUPERVISOR, SharedNumbers
from service.side_process import SideProcesses, SideSpec
from service.tls import check_tls
from service.trust import Trust
from service.worker_process import WorkerProcess

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_LONG_LIFE_S = 60.0
_PAUSE_S = 0.5
_SHORT_PAUSE_S = 0.01


def run_service(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT. Raises MsdError when the service cannot start."""
    keep_standard_streams()
    configure_logs(settings.log_level)
    check_keys(settings)
    check_tls(settings)
    cores = usable_cores()
    count = worker_count(settings, cores)
    if settings.live and settings.store == "file":
        # Made, or found unusable, here: the workers only read it.
        open_state_file(settings, is_writer=True).close()
    log = structlog.get_logger("msd.supervisor")
    if count * settings.threads > max(1.0, cores):
        log.warning("more_threads_than_cores", workers=count, threads=settings.threads, cores=round(cores, 2))
    with private_folder() as folder:
        # What workers load is verified here, once.
        follower = Follower(Source(settings), folder, settings.store == "file", Trust(settings.trusted_keys))
        with bind(settings.host, settings.port) as listener:
            Supervisor(settings, listener, count, follower).run()


def side_specs(settings: Settings) -> list[SideSpec]:
    """The side processes that the settings ask for."""
    specs = []
    if settings.live and settings.store == "file":
        specs.append(SideSpec("recorder", "service.live.recorder"))
    if settings.log_dir is not None:
        specs.append(log_side())
    if (encoder := encoder_side(settings)) is not None:
        specs.append(encoder)
    return specs


def _wake(waker: socket.socket) -> None:
    with suppress(OSError):  # it is on its way already, or nobody is there any more
        waker.send(b"\0")


class Supervisor:
    """One service's workers, by slot. First signal: drains; a second SIGINT ends all at once."""

    def __init__(self, settings: Settings, listener: socket.socket, count: int, follower: Follower) -> None:
        self._settings = settings
        self._listener = listener
        sides = side_specs(settings)
        self._numbers = SharedNumbers.create(count + len(sides))
        self._metrics = Metrics(self._numbers, SUPERVISOR)
        self._exchange = Exchange.create(self._numbers.slots) if count > 1 else None
        self._metrics.workers.set(count)
        self._slots = range(1, count + 1)
        self._workers: dict[int, WorkerProcess] = {}
        self._follower = follower
        self._rollout = Rollout(follower.first(), self._metrics, self._workers, self._after)
        self._pauses = dict.fromkeys(self._slots, _FIRST_PAUSE_S)
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._signals: deque[int] = deque()
        self._waiting: deque[socket.socket] = deque()
        self._selector = selectors.DefaultSelector()
        self._sides = SideProcesses(sides, settings, self._numbers, self._metrics, self._selector, self._after)
        self._is_open = self._is_watching = self._is_resting = self._is_stopping = False
        self._log = structlog.get_logger("msd.supervisor")

    def run(self) -> None:
        """To the end of the last worker."""
        woken, waker = socket.socketpair()
        with woken, waker, self._selector:
            woken.setblocking(False)
            waker.setblocking(False)
            self._selector.register(woken, selectors.EVENT_READ, lambda: self._wake(woken))
            signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                # Under nohup the end of the terminal is nothing to it.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._on_signal)
            try:
                self._sides.start()
                self._follower.start(lambda: _wake(waker))
                self._start(self._slots[0])
                while self._workers or (self._due and not self._is_stopping):
                    self._turn()
            finally:
                self._follower.stop()
                signal.set_wakeup_fd(-1)
                if self._exchange is not None:
                    self._exchange.close()
                for worker in self._workers.values():
                    worker.kill()
                self._sides.finish()

    def _turn(self) -> None:
        """Waits for what comes next, and sees to it."""
        now = time.monotonic()
        wait = min((at - now for at, _ in self._due), default=None)
        for key, _ in self._selector.select(wait if wait is None else max(0.0, wait)):
            key.data()
        while self._signals:
            self._stop(self._signals.popleft())
        now = time.monotonic()
        ripe = [call for at, call in self._due if at <= now]
        self._due = [(at, call) for at, call in self._due if at > now]
        for call in ripe:
            call()

    def _wake(self, woken: socket.socket) -> None:
        """By a signal, or by the follower."""
        woken.recv(64)
        if (found := self._follower.take()) is not None and not self._is_stopping:
            self._rollout.hear_of(found)

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        self._due.append((time.monotonic() + seconds, call))

    # Workers

    def _start(self, slot: int) -> None:
        if self._is_stopping:
            return
        try:
            worker = WorkerProcess(
                self._settings, self._numbers, slot, self._rollout.plan, self._sides.folder, self._exchange
            )
        except OSError as error:
            if not self._is_open:
                raise MsdError(f"the service could not start a worker process: {error.strerror}") from error
            self._start_again(slot, error.strerror or str(error))
            return
        self._workers[slot] = worker
        self._selector.register(worker.channel.socket, selectors.EVENT_READ, lambda: self._hear(worker))
        self._log.info("worker_started", worker=slot, pid=worker.pid)

    def _hear(self, worker: WorkerProcess) -> None:
        try:
            words = worker.channel.words()
        except EOFError:
            self._bury(worker)
            return
        for said in words:
            if said.what == "failed":
                worker.reason = said.reason
            elif self._rollout.joined(worker) if said.what == "serving" else self._rollout.hear(worker, said):
                self._admit(worker)

    def _admit(self, worker: WorkerProcess) -> None:
        """It serves what it should: it may have connections."""
        worker.is_serving = True
        self._open()
        self._place_waiting()
        self._rollout.admitted(worker)

    def _open(self) -> None:
        """The first worker serves: so can the others, and there is somebody to answer the door."""
        if self._is_open:
            return
        host, port = listen(self._listener)
        self._is_open = True
        self._log.info("listening", host=host, port=port, workers=len(self._slots))
        for slot in self._slots[1:]:
            self._start(slot)

    def _bury(self, worker: WorkerProcess) -> None:
        self._selector.unregister(worker.channel.socket)
        del self._workers[worker.slot]
        self._rollout.left(worker)
        cause, cpu_seconds = worker.wait()
        self._metrics.processes.ended(worker.slot, cpu_seconds)
        self._metrics.families.forget_gauges(worker.slot)
        self._numbers.rows[worker.slot][self._metrics.connections_ended] = 0.0
        self._watch_door()
        if self._is_stopping:
            return
        if not self._is_open:
            raise MsdError(worker.reason or f"the service could not start: its worker ended with {cause}")
        if time.monotonic() - worker.started_at > _LONG_LIFE_S:
            self._pauses[worker.slot] = _FIRST_PAUSE_S
        self._metrics.restarts.inc()
        self._start_again(worker.slot, worker.reason or cause)

    def _start_again(self, slot: int, cause: str) -> None:
        pause = self._pauses[slot]
        self._pauses[slot] = min(2 * pause, _LONGEST_PAUSE_S)
        self._log.error("worker_ended", worker=slot, cause=cause, again_in=pause)
        self._after(pause, lambda: self._start(slot))

    # Connections

    def _watch_door(self) -> None:
        """Takes connections while there is a worker to give them to; else they wait at the door."""
        has_worker = any(worker.is_serving for worker in self._workers.values())
        wanted = self._is_open and has_worker and not self._waiting and not self._is_resting
        if wanted and not self._is_watching:
            self._selector.register(self._listener, selectors.EVENT_READ, self._take_in)
        elif self._is_watching and not wanted:
            self._selector.unregister(self._listener)
        self._is_watching = wanted

    def _take_in(self) -> None:
        try:
            self._waiting.extend(accepted(self._listener))
        except OSError as error:
            # Too many open files, or no memory: they wait at the door for a while.
            self._log.error("cannot_accept", reason=error.strerror, again_in=_PAUSE_S)
            self._is_resting = True
            self._after(_PAUSE_S, self._rested)
        self._place_waiting()

    def _rested(self) -> None:
        self._is_resting = False
        self._watch_door()

    def _place_waiting(self) -> None:
        """Gives connections to workers, and keeps those that none can take now."""
        while self._waiting and self._place(self._waiting[0]):
            self._waiting.popleft().close()
        if self._waiting and any(worker.is_serving for worker in self._workers.values()):
            self._after(_SHORT_PAUSE_S, self._place_waiting)
        self._watch_door()

    def _place(self, connection: socket.socket) -> bool:
        """Gives one to the ready worker with the fewest; to one that is not ready only where none is."""
        ready, ended = self._metrics.ready_place, self._metrics.connections_ended
        ranked = sorted(
            (worker for worker in self._workers.values() if worker.is_serving),
            key=lambda one: (not one.number(ready), one.handed - one.number(ended), one.last_at),
        )
        return any(worker.take(connection) for worker in ranked)

    # The end

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        """Notes it alone: what is at hand may not be changed between any two of its steps."""
        self._signals.append(number)

    def _stop(self, number: int) -> None:
        if self._is_stopping and number == signal.SIGINT:
            for worker in self._workers.values():
                worker.kill()
        elif not self._is_stopping:
            self._is_stopping = True
            self._log.info("draining", seconds=self._settings.drain_seconds)
            self._due.clear()
            for worker in self._workers.values():
                worker.drain()
            # What was due for connections goes on.
            self._is_resting = False
            self._place_waiting()
            self._after(self._settings.drain_seconds if self._is_open else 0.0, self._close)

    def _close(self) -> None:
        """Takes in whoever the kernel has accepted in our name, closes the door, and lets the workers finish."""
        if self._is_open:
            refuse_new(self._listener)
            self._take_in()
            if self._waiting and any(worker.is_serving for worker in self._workers.values()):
                self._after(_SHORT_PAUSE_S, self._close)
                return
            self._is_open = False
            self._watch_door()
        self._listener.close()
        for worker in self._workers.values():
            worker.channel.finish()
