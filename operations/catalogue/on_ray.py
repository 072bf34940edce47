"""Parts made by Ray Data on a cluster. The only file that needs `ray` (extra `ray`). Items, bundle and parts must be on
storage that all machines mount under the same paths.
"""

import logging
import os
import signal
import socket
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msd.contract.errors import MsdError
from operations.catalogue.catalogue import Made, ShardJob, make_part
from operations.catalogue.manifest import CatalogueError

_ERROR = "error"
_PATIENCE_S = 5.0


class PartMaker:
    """Called by Ray's workers: a batch of jobs, as columns, becomes a batch of parts and errors."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        columns: dict[str, list[Any]] = {name: [] for name in (*Made._fields, _ERROR)}
        for job in zip(*(batch[name] for name in ShardJob._fields), strict=True):
            for name, value in _made(_job(job)).items():
                columns[name].append(value)
        return {name: np.array(values) for name, values in columns.items()}


def make_on_ray(jobs: Sequence[ShardJob], address: str) -> Generator[Made, None, None]:
    """Yield parts as they are made, one core each. Raises CatalogueError for the first that fails."""
    # Ray sends usage statistics unless disabled before import.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise CatalogueError("--ray needs the module 'ray': pip install 'msd-ctr[ray]'") from None
    _refuse_unreachable(address)
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError) as error:
        raise CatalogueError(f"--ray {address}: {error}") from None
    try:
        # Ray's own handler would abort this process before cleanup.
        signal.signal(signal.SIGTERM, on_term)
        for row in _parts(ray, jobs).iter_rows():
            if wrong := str(row[_ERROR]):
                raise CatalogueError(wrong)
            yield Made(**{name: row[name] for name in Made._fields})
    except ray.exceptions.RayError as error:
        raise CatalogueError(f"--ray {address}: {type(error).__name__}: {error}; run it again to resume") from None
    finally:
        ray.shutdown()


def _refuse_unreachable(address: str) -> None:
    """Raise early if the cluster is unreachable: Ray would retry for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise CatalogueError(f"--ray {address}: no answer: {error}") from None


def _parts(ray: Any, jobs: Sequence[ShardJob]) -> Any:  # noqa: ANN401 - ray has hardly any types
    """Return a dataset of the parts, with a worker per core, and more if the cluster grows."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    due = ray.data.from_items([_row(job) for job in jobs], override_num_blocks=len(jobs))
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    workers = ray.data.ActorPoolStrategy(min_size=min(cores, len(jobs)), max_size=len(jobs))
    return due.map_batches(PartMaker, batch_size=1, compute=workers, num_cpus=1)


def _row(job: ShardJob) -> dict[str, str]:
    return {name: str(value) for name, value in job._asdict().items()}


def _job(values: Sequence[Any]) -> ShardJob:
    shard, part, bundle, manifest_sha256, bundle_id, run = map(str, values)
    return ShardJob(Path(shard), Path(part), Path(bundle), manifest_sha256, bundle_id, run)


def _made(job: ShardJob) -> dict[str, Any]:
    try:
        return {**make_part(job)._asdict(), _ERROR: ""}
    except MsdError as error:
        return {**Made(job.part.name, 0, 0, 0, "", False)._asdict(), _ERROR: str(error)}
