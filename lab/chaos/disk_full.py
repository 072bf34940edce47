"""The request log's disk is full for a while: records are lost and counted, requests are unaffected."""

import resource
from collections.abc import Iterable, Mapping
from typing import Any

from lab.chaos.environment import wait_for
from lab.chaos.scenario import Check, Figure, UnderLoad
from loadtest.generator import closed_loop
from loadtest.http_client import ServiceConnection, wait_until

_LOST = 'msd_log_records_total{result="lost"}'
_WRITTEN = 'msd_log_records_total{result="written"}'
_ROOM = 1_024
_SHARE = 0.2
_FLUSH_S = 0.25
_MAGIC = b"PAR1"


class DiskFull(UnderLoad):
    """Once there is room again, records are written."""

    name = "disk-full"
    title = "The disk under the request log is full"
    lost = again = 0.0

    def settings(self) -> Mapping[str, Any]:
        return {"log_dir": self.folder / "log", "log_sample": _SHARE, "LOG_FLUSH_S": _FLUSH_S}

    def disturb(self) -> None:
        usual = resource.prlimit(self.service.pid, resource.RLIMIT_FSIZE)
        # The service's files may not grow beyond this: as on a full disk, its writes stop halfway.
        resource.prlimit(self.service.pid, resource.RLIMIT_FSIZE, (_ROOM, usual[1]))
        full = self.load.mark("no room for the log")
        wait_for(self.service.url, _LOST, 1)
        self.load.until(full + self.plan.broken_s)
        resource.prlimit(self.service.pid, resource.RLIMIT_FSIZE, usual)
        self.load.mark("room again")
        with ServiceConnection(self.service.url) as client:
            self.written = client.metric(_WRITTEN)

    def after(self) -> None:
        with ServiceConnection(self.service.url) as client:

            def is_written() -> bool:
                # On a busy machine the load may end before there is room again.
                closed_loop(self.target, 1, _FLUSH_S)
                return client.metric(_WRITTEN) > self.written

            wait_until(f"{self.service.url}: with room again, a record is written", is_written)
            self.lost, self.again = client.metric(_LOST), client.metric(_WRITTEN) - self.written

    def figures(self) -> Mapping[str, Figure]:
        return self.named(records_lost=self.lost, records_written_after=self.again)

    def checks(self) -> Iterable[Check]:
        # Files that would break a reader of the log.
        halves = [one for one in (self.folder / "log").glob("[!.]*.parquet") if not one.read_bytes().endswith(_MAGIC)]
        yield Check("lost records are counted", self.lost > 0)
        yield Check("once there is room, records are written again", self.again > 0)
        yield Check("no file is half-written", not halves)
