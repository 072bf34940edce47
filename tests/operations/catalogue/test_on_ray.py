"""Ray makes the rows that one process makes; run by `make ray`."""

import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pytest

from msd.contract.bundle import Bundle
from msd.free_port import free_port
from operations.catalogue.catalogue import Finished, Made, ShardJob, make_catalogue
from operations.catalogue.manifest import CatalogueError
from operations.catalogue.on_ray import make_on_ray
from tests.operations.catalogue.made import make, quiet, records_of, write_items, write_shard
from tests.service.live import ROOT, wait_until

pytestmark = [
    pytest.mark.ray,
    # Ray's warning about its own settings.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]


def by_ray(items: Path, bundle: Bundle, out: Path, address: str = "local") -> Finished:
    return make_catalogue(items, bundle, out, lambda jobs: make_on_ray(jobs, address), quiet)


def assert_rows_of_one_process(items: Path, bundle: Bundle, out: Path) -> None:
    here = out.with_name("here")
    make(items, bundle, here)
    for shard in items.iterdir():
        ours, theirs = (records_of(bundle, folder / shard.name) for folder in (here, out))
        assert ours.keys() == theirs.keys()
        for name in ("categorical", "numeric", "semantic", "flags"):
            assert all(np.array_equal(ours[key][name], theirs[key][name]) for key in ours)


def test_ray_makes_rows_of_one_process_and_raises_errors(cold_bundle: Bundle, tmp_path: Path) -> None:
    items, out = write_items(tmp_path / "items"), tmp_path / "ray"
    write_shard(items / "001.parquet", {"id": ["a"], "price": ["9"]})
    with pytest.raises(CatalogueError, match=r"001\.parquet, row 1: price should be a number"):
        by_ray(items, cold_bundle, out)
    write_items(tmp_path / "items")
    assert by_ray(items, cold_bundle, out).rows == 12
    assert_rows_of_one_process(items, cold_bundle, out)
    assert by_ray(items, cold_bundle, out).parts_made == 0


def test_killed_node_loses_no_part_and_makes_none_twice(cold_bundle: Bundle, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    items, out, parts = write_items(tmp_path / "items", shards=8, rows=20_000), tmp_path / "out", list[str]()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    doomed = cluster.add_node(num_cpus=1)

    def made(jobs: Sequence[ShardJob]) -> Generator[Made, None, None]:
        for part in make_on_ray(jobs, cluster.address):
            if not parts:
                cluster.remove_node(doomed, allow_graceful=False)
            parts.append(part.name)
            yield part

    try:
        assert make_catalogue(items, cold_bundle, out, made, quiet).rows == 160_000
    finally:
        cluster.shutdown()
    assert sorted(parts) == sorted(shard.name for shard in items.iterdir())
    assert not list(out.glob(".*"))
    assert_rows_of_one_process(items, cold_bundle, out)


def test_unreachable_cluster_is_an_error(cold_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="no answer"):
        by_ray(write_items(tmp_path / "items"), cold_bundle, tmp_path / "out", f"127.0.0.1:{free_port()}")


def test_sigterm_leaves_nothing_half_made(cold_bundle: Bundle, tmp_path: Path) -> None:
    items, out = write_items(tmp_path / "items", shards=2, rows=200_000), tmp_path / "out"
    command = [sys.executable, "-m", "msd", "catalogue", *map(str, (items, cold_bundle.folder, out)), "--ray", "local"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as running:
        wait_until(lambda: list(out.glob(".*")))
        running.terminate()
    assert running.returncode == 128 + signal.SIGTERM
    assert not list(out.glob(".*"))
