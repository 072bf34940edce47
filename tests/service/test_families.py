"""Metrics over several processes' rows: what any of them tells is of all, and outlives each of them."""

import subprocess
import sys
from bisect import bisect_left
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from service.families import Histogram
from service.metrics import Metrics
from service.shared import SUPERVISOR, SharedNumbers

ROOT = Path(__file__).parents[2]


def samples(metrics: Metrics) -> dict[str, float]:
    """All that a process tells, parsed by Prometheus's own rules: name and labels → value."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        sample.name + "".join(f"|{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def service_of(slots: int) -> list[Metrics]:
    """The supervisor's metrics and each worker's."""
    numbers = SharedNumbers.create(slots)
    return [Metrics(numbers, row) for row in range(1 + slots)]


def test_any_worker_tells_of_all() -> None:
    supervisor, first, second = service_of(2)
    supervisor.workers.set(2)
    first.request(200, 0.002)
    second.request(200, 0.3)
    second.request(429, 0.0001)
    first.is_ready(True)
    first.queued_rows.set(30)
    second.queued_rows.set(12)
    told = samples(first)

    process = {name for name in told if name.startswith("process_")}
    assert {name: value for name, value in samples(second).items() if name not in process} == {
        name: value for name, value in told.items() if name not in process
    }
    assert told["msd_requests_total|200"] == 2
    assert told["msd_requests_total|429"] == 1
    # The refusal is no part of how long scoring takes.
    assert told["msd_request_seconds_count"] == 2
    assert told["msd_request_seconds_sum"] == pytest.approx(0.302)
    assert told["msd_request_seconds_bucket|0.002"] == 1
    assert (told["msd_queued_rows"], told["msd_ready"], told["msd_workers_ready"]) == (42, 1, 1)


def test_a_replaced_worker_counts_on_and_its_gauges_begin_anew() -> None:
    supervisor, first, second = service_of(2)
    first.request(200, 0.002)
    second.request(200, 0.002)
    second.is_ready(True)
    second.queued_rows.set(200)
    supervisor.families.forget_gauges(2)
    supervisor.processes.ended(2, cpu_seconds=4.5)
    supervisor.restarts.inc()
    assert (samples(first)["msd_ready"], samples(first)["msd_queued_rows"]) == (0, 0)

    replaced = Metrics(first.families.numbers, 2)
    replaced.request(200, 0.002)
    told = samples(replaced)
    assert told["msd_requests_total|200"] == 3
    assert told["msd_worker_restarts_total"] == 1
    assert told["process_cpu_seconds_total"] >= 4.5


def test_rows_are_shared_with_processes_that_inherit_them() -> None:
    numbers = SharedNumbers.create(2)
    code = (
        "import sys; from service.metrics import Metrics; from service.shared import SharedNumbers\n"
        "Metrics(SharedNumbers(int(sys.argv[1]), 2), 2).request(200, 0.5)"
    )
    descriptor = numbers.file_descriptor
    subprocess.run([sys.executable, "-c", code, str(descriptor)], cwd=ROOT, pass_fds=(descriptor,), check=True)

    assert samples(Metrics(numbers, 1))["msd_requests_total|200"] == 1


@given(st.lists(st.floats(0, 10), max_size=30))
def test_a_histogram_counts_every_value_once_where_it_belongs(values: list[float]) -> None:
    _, first, second = service_of(2)
    for place, value in enumerate(values):
        (first, second)[place % 2].stages["run"].observe(value)
    told = samples(first)
    bounds = sorted(
        float(name.split("|")[1]) for name in told if name.startswith("msd_stage_seconds_bucket|") and "|run" in name
    )

    for bound in bounds:
        shown = "+Inf" if bound == float("inf") else None
        count = next(
            value
            for name, value in told.items()
            if name.startswith("msd_stage_seconds_bucket|")
            and name.endswith("|run")
            and (name.split("|")[1] == shown if shown else float(name.split("|")[1]) == bound)
        )
        assert count == sum(value <= bound for value in values)
    assert told["msd_stage_seconds_sum|run"] == pytest.approx(sum(values))
    assert bisect_left(bounds, bounds[-1]) == len(bounds) - 1


def test_buckets_tell_parts_of_a_millisecond_apart() -> None:
    told = samples(Metrics())
    bounds = [
        float(name.split("|")[1]) for name in told if name.startswith("msd_stage_seconds_bucket|") and "|run" in name
    ]

    assert sum(bound < 1e-3 for bound in bounds) >= 6


def test_the_supervisor_has_a_row_of_its_own() -> None:
    supervisor, first = service_of(1)
    supervisor.workers.set(1)

    assert (supervisor.row, samples(first)["msd_workers"]) == (SUPERVISOR, 1)


@given(st.lists(st.sampled_from([0.0, 1e-4, 1e-3, 0.02, 1.0, 4.0, 9.0]) | st.floats(0, 20), min_size=1, max_size=30))
def test_many_are_counted_as_one_by_one(values: list[float]) -> None:
    at_once, one_by_one = (memoryview(bytearray(8 * 7)).cast("d") for _ in range(2))
    bounds = (1e-4, 1e-3, 0.02, 1.0, 4.0)
    Histogram(at_once, 0, bounds).observe_all(np.array(values))
    for value in values:
        Histogram(one_by_one, 0, bounds).observe(value)

    assert list(at_once) == pytest.approx(list(one_by_one))
