"""What the log's tests share: waiting until a service logs, and reading what it has logged."""

from collections.abc import Collection
from pathlib import Path

from msd.contract.log import RequestRecord
from service.request_log.files import log_files, read_requests
from tests.service.live import LiveService, wait_until

ASKS = {"user_id": "u1", "candidates": {"id": ["i1", "i2"]}}


def connected(service: LiveService) -> None:
    """Sends requests until one has reached the log's writer."""

    def is_logged() -> bool:
        service.score(ASKS)
        return logged(service, "written") > 0

    wait_until(is_logged)


def logged(service: LiveService, result: str) -> float:
    """How many requests of a result there are."""
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
    return {one: found[one] for one in request_ids}


def records(folder: Path) -> list[RequestRecord]:
    """All records of a folder, in the order that they were written."""
    return [record for path in log_files(folder) for record in read_requests(path)]
