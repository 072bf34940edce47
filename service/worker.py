"""A worker process: the service over one line-up after the other, for connections that the supervisor hands to it.

Run as `python -m service.worker SIDES CHANNEL NUMBERS PLAN SLOTS SLOT [READS WRITES MEMORY]` by `worker_process` alone;
SIDES is the folder of the side processes' sockets, empty where there are none, the last three are an `Exchange`'s.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from msd.contract.errors import MsdError
from service.app import create_app
from service.balance import Balance
from service.channel import WorkerEnd
from service.entry import Entry
from service.exchange import Exchange
from service.lineup.plan import Plan
from service.logs import configure_logs
from service.metrics import Metrics
from service.server import WorkerServer, server_config
from service.settings import Settings
from service.shared import SharedNumbers

_REFUSED = 2


def main(arguments: Sequence[str]) -> None:
    """Serves until the channel ends."""
    side_folder = Path(arguments[0]) if arguments[0] else None
    channel_fd, numbers_fd, plan_fd, slots, slot, *exchange_fds = map(int, arguments[1:])
    channel = WorkerEnd(channel_fd)
    try:
        settings = Settings.from_environ(os.environ)
        configure_logs(settings.log_level, worker=slot)
        metrics = Metrics(SharedNumbers(numbers_fd, slots), slot)
        exchange = Exchange(exchange_fds, slots) if exchange_fds else None
        app = create_app(settings, metrics, Plan.read(plan_fd), side_folder, exchange)
        entry = Entry(settings, metrics)
    except MsdError as error:
        channel.failed(str(error))
        sys.exit(_REFUSED)
    balance = Balance(metrics)
    config = server_config(app, settings, metrics, balance, app.state.door)
    WorkerServer(config, channel, app.state, balance, entry).run()


if __name__ == "__main__":
    main(sys.argv[1:])
