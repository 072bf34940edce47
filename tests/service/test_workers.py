"""Several worker processes: scores, balance, metrics of all, deaths and ends, two services side by side."""

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from msd.contract.bundle import GOLDENS, Bundle
from msd.contract.golden import Golden, read_goldens
from tests.service.bundle_factory import golden_requests
from tests.service.live import ROOT, LiveService, live_service, run_msd, wait_until
from tests.service.test_load import Load
from tests.service.test_start import break_goldens


@pytest.fixture(scope="module")
def pair(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """Two workers, both ready; tests leave them as they are."""
    with live_service(
        bundle.folder, tmp_path_factory.mktemp("pair"), workers=2, log_level="debug", deadline_ms=60_000
    ) as running:
        wait_until(lambda: running.metric("msd_workers_ready") == 2)
        yield running


def at_once() -> dict[str, str]:
    """The environment of a service whose end does not wait for anybody."""
    return {**os.environ, "MSD_DRAIN_SECONDS": "0"}


def pids(service: LiveService) -> dict[int, int]:
    """The last worker process started in each slot."""
    return {line["worker"]: line["pid"] for line in service.log() if line["event"] == "worker_started"}


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def check_golden(client: httpx.Client, golden: Golden) -> int:
    """Asks for a golden's scores, which have to be those expected."""
    answer = client.post("/v1/score", json={**golden.request, "top_k": None})
    assert answer.status_code == 200, answer.text
    for head, expected in golden.expected.items():
        assert answer.json()["candidates"][head] == pytest.approx(expected, abs=1e-5)
    return len(expected)


def test_every_worker_gives_the_goldens_scores_at_rest_and_under_load(bundle: Bundle, pair: LiveService) -> None:
    goldens = list(read_goldens(bundle.path(GOLDENS)))

    def ask(_: int) -> int:
        with pair.client() as client:
            return sum(check_golden(client, golden) for golden in goldens for _ in range(10))

    assert ask(0) == ask(1)
    before = scored_by_worker(pair)
    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(ask, range(6)))) == 1
    after = scored_by_worker(pair)
    assert all(after[worker] > before[worker] for worker in (1, 2))


def scored_by_worker(service: LiveService) -> Counter[int]:
    """Replies by worker, as far as the log tells."""
    return Counter(line["worker"] for line in service.log() if line["event"] == "request" and line["status"] == 200)


@pytest.mark.parametrize("connections", [2, 4, 6])
def test_few_kept_connections_are_shared_equally(pair: LiveService, connections: int) -> None:
    clients = [pair.client() for _ in range(connections)]
    before = scored_by_worker(pair)
    for client in clients:
        assert client.post("/v1/score", json=golden_requests()[1]).status_code == 200
    for client in clients:
        client.close()
    wait_until(lambda: (scored_by_worker(pair) - before).total() == connections)
    assert (scored_by_worker(pair) - before) == {1: connections // 2, 2: connections // 2}


def test_any_worker_tells_the_metrics_of_all(pair: LiveService) -> None:
    def scored() -> float:
        return pair.metric('msd_requests_total{code="200"}')

    before, stages = scored(), pair.metric('msd_stage_seconds_count{stage="run"}')
    for _ in range(8):
        pair.score(golden_requests()[1])
    # Each on a connection of its own, so asked of both workers.
    assert [scored() - before for _ in range(4)] == [8] * 4
    assert pair.metric('msd_stage_seconds_count{stage="run"}') - stages == 8
    assert pair.metric("msd_workers") == 2
    assert pair.metric("msd_ready") == 1
    resident = sum(
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        for pid in [pair.process.pid, *pids(pair).values()]
    )
    assert pair.metric("process_resident_memory_bytes") == pytest.approx(resident, rel=0.2)
    assert pair.metric("process_cpu_seconds_total") > 0
    assert pair.metric("process_start_time_seconds") == pytest.approx(time.time(), abs=3_600)


def test_workers_keep_to_the_threads_that_were_asked_for(pair: LiveService) -> None:
    for pid in pids(pair).values():
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert {b"OMP_NUM_THREADS=1", b"OPENBLAS_NUM_THREADS=1", b"MKL_NUM_THREADS=1"} <= set(variables)


def test_a_killed_worker_is_replaced_and_costs_only_its_own_requests(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path, workers=2, log_level="debug", deadline_ms=60_000) as running:
        wait_until(lambda: running.metric("msd_workers_ready") == 2)
        load = Load(running, 4)
        wait_until(lambda: load.statuses[200] >= 40)
        counted = running.metric('msd_requests_total{code="200"}')
        old = pids(running)
        os.kill(old[1], signal.SIGKILL)
        wait_until(lambda: pids(running)[1] != old[1])
        wait_until(lambda: running.metric("msd_workers_ready") == 2)
        # The new one gets its share of the connections, though all were made before it was there.
        before = scored_by_worker(running)
        wait_until(lambda: min((scored_by_worker(running) - before)[worker] for worker in (1, 2)) >= 10)
        load.stop()
        # Half of the four clients were on the killed worker.
        assert len(load.lost) <= 2
        assert load.refused == 0
        assert set(load.statuses) == {200}
        assert pids(running)[2] == old[2]
        assert running.metric("msd_worker_restarts_total") == 1
        assert running.metric('msd_requests_total{code="200"}') > counted
        assert running.metric("msd_queued_rows") == 0
        (ended,) = [line for line in running.log() if line["event"] == "worker_ended"]
        assert (ended["worker"], ended["cause"], ended["level"]) == (1, "SIGKILL", "error")
        assert running.terminate() == 0


def test_while_the_only_worker_is_replaced_clients_wait_at_the_door(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path) as running:
        os.kill(pids(running)[1], signal.SIGKILL)
        with running.client() as client:
            wait_until(lambda: client.get("/health/live").status_code == 200)
            wait_until(lambda: client.get("/health/ready").status_code == 200)
        assert running.score(golden_requests()[0]).status_code == 200


def test_a_worker_that_is_told_to_end_loses_nothing(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path, workers=2, deadline_ms=60_000) as running:
        wait_until(lambda: running.metric("msd_workers_ready") == 2)
        load = Load(running, 4)
        wait_until(lambda: load.statuses[200] >= 40)
        old = pids(running)
        os.kill(old[2], signal.SIGTERM)
        wait_until(lambda: pids(running)[2] != old[2])
        scored = load.statuses[200]
        wait_until(lambda: load.statuses[200] >= scored + 20)
        load.stop()

    assert load.lost == []
    assert set(load.statuses) == {200}


def test_while_the_only_worker_ends_and_is_replaced_nobody_is_lost(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path) as running:
        load = Load(running, 4)
        wait_until(lambda: load.statuses[200] >= 20)
        old = pids(running)
        os.kill(old[1], signal.SIGTERM)
        wait_until(lambda: pids(running)[1] != old[1])
        scored = load.statuses[200]
        wait_until(lambda: load.statuses[200] >= scored + 20)
        load.stop()

    assert load.lost == []
    # 503 until the new one is ready.
    assert set(load.statuses) <= {200, 503}


def test_more_connections_at_once_than_a_channel_holds(pair: LiveService) -> None:
    """The worker is stopped meanwhile, so that they pile up on the way to it."""
    workers = pids(pair).values()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        kept = [socket.create_connection(("127.0.0.1", pair.port), timeout=60) for _ in range(700)]
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    for connection in kept:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    assert all(connection.recv(15) == b"HTTP/1.1 200 OK" for connection in kept)
    for connection in kept:
        connection.close()
    assert pair.score(golden_requests()[0]).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_of_several_workers_loses_no_accepted_request(
    bundle: Bundle, tmp_path: Path, number: signal.Signals
) -> None:
    # Time enough for three workers on a busy machine.
    with live_service(bundle.folder, tmp_path, workers=3, drain_seconds=0.3, deadline_ms=60_000) as running:
        wait_until(lambda: running.metric("msd_workers_ready") == 3)
        load = Load(running, 6)
        wait_until(lambda: load.statuses[200] >= 60)
        running.process.send_signal(number)
        assert running.process.wait(120) == 0
        load.stop()

    assert load.lost == []
    assert set(load.statuses) == {200}
    assert load.refused == 6


def test_who_waits_for_room_when_the_end_begins_does_not_wait_for_the_end(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path, drain_seconds=3_600) as running:
        (worker,) = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
        os.kill(int(worker), signal.SIGSTOP)
        clients = [socket.create_connection(("127.0.0.1", running.port), timeout=30) for _ in range(600)]
        for client in clients:
            client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: any(line["event"] == "draining" for line in running.log()))
        os.kill(int(worker), signal.SIGCONT)
        for client in clients:
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
            client.close()
        running.process.send_signal(signal.SIGINT)


def test_a_second_interrupt_ends_at_once(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path, workers=2, drain_seconds=600) as running:
        running.process.send_signal(signal.SIGINT)
        wait_until(lambda: running.ready()["draining"])
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(120) == 0
        assert not any(map(is_alive, pids(running).values()))


def test_workers_do_not_outlive_their_supervisor(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path, workers=2, drain_seconds=600) as running:
        wait_until(lambda: running.metric("msd_workers_ready") == 2)
        workers = pids(running)
        with running.client() as client:
            assert client.post("/v1/score", json=golden_requests()[0]).status_code == 200
            running.process.kill()
            running.process.wait(120)
            wait_until(lambda: not any(map(is_alive, workers.values())))


def test_a_worker_that_cannot_become_ready_gets_no_requests_while_another_can(
    copied_bundle: Path, tmp_path: Path
) -> None:
    with live_service(copied_bundle, tmp_path, workers=2) as running:
        wait_until(lambda: running.metric("msd_workers_ready") == 2)
        with (copied_bundle / GOLDENS).open("r+b") as held:
            break_goldens(copied_bundle)
            # In the very file that the service holds, too: any other in its place would be as good as none.
            held.truncate(0)
            held.write((copied_bundle / GOLDENS).read_bytes())
        os.kill(pids(running)[1], signal.SIGKILL)
        wait_until(lambda: any(line["event"] == "not_ready" and line["worker"] == 1 for line in running.log()))
        for _ in range(6):
            assert running.score(golden_requests()[0]).status_code == 200
            ready = running.ready()
            assert (ready["ready"], ready["workers"], ready["workers_ready"]) == (True, 2, 1)
        (reason,) = [line["reason"] for line in running.log() if line["event"] == "not_ready"]
        wait_until(lambda: running.metric("msd_bundle_refused") == 1)
        assert "golden 2 differs" in reason
        assert running.metric("msd_workers_ready") == 1


@pytest.mark.parametrize("of_worker", [True, False])
def test_too_many_open_files_cost_connections_and_no_more(bundle: Bundle, tmp_path: Path, of_worker: bool) -> None:
    with live_service(bundle.folder, tmp_path) as running:
        pid = pids(running)[1] if of_worker else running.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), before[1]))
        kept = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(4)]
        said = "connection_lost" if of_worker else "cannot_accept"
        wait_until(lambda: any(line["event"] == said for line in running.log()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        for connection in kept:
            connection.close()
        wait_until(lambda: running.score(golden_requests()[0]).status_code == 200)
        assert running.metric("msd_worker_restarts_total") == 0
        assert running.terminate() == 0


def test_where_streams_are_closed_neither_rows_nor_connections_take_their_place(bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    serve = [sys.executable, "-m", "msd", "serve", str(bundle.folder), "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *serve], cwd=ROOT, env=at_once())
    service = LiveService(f"http://127.0.0.1:{port}", port, process, Path(os.devnull))
    try:
        wait_until(lambda: service.ready()["ready"])
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (process.pid, *children):
            assert {os.readlink(f"/proc/{pid}/fd/{descriptor}") for descriptor in range(3)} == {os.devnull}
        assert service.score(golden_requests()[0]).status_code == 200
        assert service.terminate() == 0
    finally:
        process.kill()
        process.wait()


def test_when_nobody_reads_the_log_any_more_service_goes_on(bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    serve = [sys.executable, "-m", "msd", "serve", str(bundle.folder), "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(serve, cwd=ROOT, env=at_once(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    service = LiveService(f"http://127.0.0.1:{port}", port, process, Path(os.devnull))
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        wait_until(lambda: service.ready()["ready"])
        process.stdout.close()
        assert service.score({"user_id": 5}).status_code == 422
        (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(worker), signal.SIGKILL)
        wait_until(lambda: service.ready()["ready"] and service.metric("msd_worker_restarts_total") == 1)
        assert service.score(golden_requests()[0]).status_code == 200
        assert service.terminate() == 0
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_two_services_side_by_side(bundle: Bundle, other_bundle: Bundle, pair: LiveService, tmp_path: Path) -> None:
    with live_service(other_bundle.folder, tmp_path, workers=2) as other:
        assert pair.score(golden_requests()[0]).json()["model_version"] == "test-0"
        assert other.score(golden_requests()[0]).json()["model_version"] == "test-1"
        wait_until(lambda: other.metric('msd_requests_total{code="200"}') == 1)
        said = run_msd("serve", str(bundle.folder), "--port", str(pair.port), "--workers", "2")
        assert (said.returncode, said.stderr.count("error: ")) == (2, 1)
        assert f"cannot listen on 127.0.0.1 port {pair.port}" in said.stderr


def test_more_workers_than_cores_are_warned_of(bundle: Bundle, tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    with live_service(bundle.folder, tmp_path, workers=cores + 1, deadline_ms=60_000) as running:
        (warning,) = [line for line in running.log() if line["event"] == "more_threads_than_cores"]
        assert (warning["level"], warning["workers"], warning["threads"]) == ("warning", cores + 1, 1)


@pytest.mark.parametrize("workers", ["0", "-1", "many", "1.5", "513", ""])
def test_a_number_of_workers_that_cannot_be_is_refused_once(bundle: Bundle, workers: str) -> None:
    said = run_msd("serve", str(bundle.folder), "--port", "0", MSD_WORKERS=workers)

    assert said.returncode == 2
    assert said.stderr.startswith("error: MSD_WORKERS: ")
    assert "neither 'auto' nor a whole number from 1 to 512" in said.stderr.replace("\n", " ")


def test_what_no_worker_can_start_on_is_said_once(bundle: Bundle) -> None:
    said = run_msd("serve", str(bundle.folder), "--port", "0", "--workers", "3", "--provider", "cuda")

    assert (said.returncode, said.stderr.count("CPUExecutionProvider")) == (2, 1)
    assert "Traceback" not in said.stderr + said.stdout


def test_a_folder_with_other_modules_of_the_same_names_is_no_hindrance(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("service", "msd", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('a stranger')")
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "msd", "serve", str(bundle.folder), "--port", "0", "--provider", "cuda"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    # Said by a worker, so one was started.
    assert "CPUExecutionProvider" in ended.stderr
    assert "stranger" not in ended.stderr


def test_connections_made_while_it_starts_are_answered(bundle: Bundle, tmp_path: Path) -> None:
    """Asked before any worker is ready, it says so, and that the client should connect anew."""
    with live_service(bundle.folder, tmp_path, workers=2, wait_ready=False) as running:
        statuses: list[int] = []

        def ask() -> None:
            with running.client() as client:
                answer = client.post("/v1/score", json=golden_requests()[0])
                statuses.append(answer.status_code)
                assert answer.status_code == 200 or answer.headers["connection"] == "close"

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert len(statuses) == 8
        assert set(statuses) <= {200, 503}
        wait_until(lambda: running.ready()["ready"])


def test_clients_that_leave_at_once_are_not_counted_as_connected(pair: LiveService) -> None:
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", pair.port)):
            pass
    test_few_kept_connections_are_shared_equally(pair, 4)
