"""What the log's tests share: a service that logs everything, waits until one logs, and its records."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from msd.contract.bundle import Bundle
from msd.contract.log import RequestRecord
from service.request_log.files import log_files, read_requests
from tests.service.live import LiveService, live_service, wait_until

ASKS = {"user_id": "u1", "candidates": {"id": ["i1", "i2"]}}


class Logging(NamedTuple):
    """A service, and where its log is."""

    service: LiveService
    folder: Path


@contextmanager
def logging_service(bundle: Bundle, folder: Path) -> Iterator[Logging]:
    log = folder / "log"
    with live_service(bundle.folder, folder, log_dir=log, log_sample=1, LOG_FLUSH_S=0.2) as service:
        connected(service)
        yield Logging(service, log)


def connected(service: LiveService) -> None:
    """Sends requests until one has reached the log's writer."""

    def is_logged() -> bool:
        service.score(ASKS)
        return logged(service, "written") > 0

    wait_until(is_logged)


def logged(service: LiveService, result: str) -> float:
    return service.metric(f'msd_log_records_total{{result="{result}"}}')


def awaited(folder: Path, request_ids: Collection[str]) -> dict[str, RequestRecord]:
    """The records of some requests, once all are there."""
    found: dict[str, RequestRecord] = {}
    read: set[Path] = set()

    def are_there() -> bool:
        if not any(folder.glob("requests-*.parquet")):  # the first is still to be written
            return False
        for path in log_files(folder):
            if path not in read:
                found.update({record.request_id: record for record in read_requests(path)})
                read.add(path)
        return found.keys() >= set(request_ids)

    wait_until(are_there)
    return {request_id: found[request_id] for request_id in request_ids}


def records(folder: Path) -> list[RequestRecord]:
    return [record for path in log_files(folder) for record in read_requests(path)]
