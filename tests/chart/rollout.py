"""Rehearses a rollout: one pod takes another's place while clients go on asking.

As behind a Service: a new connection goes to a pod that is ready, as far as word of that has gone round; one that there
is stays with its pod until that closes it.
"""

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Event, Thread, Timer

from tests.chart.helm import ChartError
from tests.chart.pod import Pod

_ASKED = {"user_id": "u1", "at": 1_764_066_000, "context": {"hour": 13}, "candidates": {"id": ["i1", "i2"]}}
_WORD_GOES_ROUND_S = 0.7
"""Less than preStop of these rehearsals."""
_WHILE_S = 0.5


class Clients:
    """Some that ask without a pause, each on a connection that it keeps for as long as it can."""

    def __init__(self, port: int, count: int = 4) -> None:
        self.port = port
        """Where new connections go."""
        self.answers: Counter[str] = Counter()
        """Replies by the model's version, or by what was wrong."""
        self._stop = Event()
        self._threads = [Thread(target=self._ask, daemon=True) for _ in range(count)]

    @contextmanager
    def asking(self) -> Iterator[None]:
        """For as long as the block lasts."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        """Waits for the last answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                connection.request("POST", "/v1/score", json.dumps(_ASKED), {"Content-Type": "application/json"})
                reply = connection.getresponse()
                document = json.loads(reply.read())
                self.answers[str(document.get("model_version", reply.status))] += 1
                closes = reply.will_close
            except (OSError, http.client.HTTPException) as error:
                self.answers[repr(error)] += 1
                closes = True
            if closes:
                connection.close()
                connection = None


def roll(old: Pod, new: Pod) -> "Counter[str]":
    """Replaces `old` by `new` as a Deployment does that spares no pod, and gives what clients were answered.

    Raises ChartError when they got anything but scores, of both.
    """
    clients = Clients(old.port)
    with ExitStack() as before:
        before.enter_context(old.running())
        with clients.asking():
            time.sleep(_WHILE_S)
            with new.running():
                Timer(_WORD_GOES_ROUND_S, setattr, (clients, "port", new.port)).start()
                before.close()
                time.sleep(_WHILE_S)
                # They leave before the last pod does.
                clients.stop()
    wrong = {said: count for said, count in clients.answers.items() if not said.startswith("test-")}
    if wrong or len(clients.answers) != 2:
        raise ChartError(f"during a rollout clients were answered {dict(clients.answers)}")
    return clients.answers
