"""`msd serve`'s process: signals, limits of open files, ports, and the exit status."""

import resource
import signal
from contextlib import ExitStack
from types import FrameType

import structlog

from service import limits
from service.deployment.pinned_bundle import private_folder
from service.deployment.rollout import BundleFollower
from service.http.entry import bind
from service.http.keys import check_keys
from service.http.tls import check_tls
from service.machine import scoring_threads, usable_cores
from service.server.scoring_server import ScoringServer, handled_signals
from service.server.watchdog import Watchdog, grace_of
from service.settings import Settings
from service.telemetry.logs import close_logs, configure_logs, keep_standard_streams
from service.telemetry.metrics import Metrics

# Descriptors not used by clients: files of bundles and logs, Redis, the admin port, and connections accepted to be
# refused.
_OTHER_FILES = 256


def run_service(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises MsdError if the service cannot start."""
    keep_standard_streams()
    metrics = Metrics()
    metrics.log_lines.read = configure_logs(settings.log_level).read
    watchdog = Watchdog(settings.drain_seconds, grace_of(settings), limits.HANG_S)
    watchdog.start()
    for number in handled_signals():
        signal.signal(number, _leave_to_the_watchdog)
    check_keys(settings)
    check_tls(settings)
    settings = _with_descriptors(_with_threads(settings))
    with ExitStack() as stack:
        watchdog.folder = folder = stack.enter_context(private_folder())
        stack.callback(watchdog.await_end)
        listener = stack.enter_context(bind(settings.host, settings.port, settings.reuse_port))
        admin = None if settings.admin_port is None else stack.enter_context(bind(settings.host, settings.admin_port))
        server = ScoringServer(settings, listener, admin, BundleFollower(settings, folder), watchdog, metrics)
        server.run()
    if server.is_run_left:
        # Otherwise its memory would be freed under its thread.
        close_logs()
        watchdog.end(1)


def _with_threads(settings: Settings) -> Settings:
    cores = usable_cores()
    count = scoring_threads(settings, cores)
    if count * settings.threads > max(1.0, cores):
        structlog.get_logger("msd.server").warning(
            "more_threads_than_cores", workers=count, threads=settings.threads, cores=round(cores, 2)
        )
    return settings.model_copy(update={"workers": count})


def _with_descriptors(settings: Settings) -> Settings:
    """Return settings whose limit of connections fits the limit of open files, which is raised as far as the system
    allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    connections = max(1, (most - _OTHER_FILES) // settings.files_per_connection)
    if most == resource.RLIM_INFINITY or settings.max_connections <= connections:
        return settings
    structlog.get_logger("msd.server").warning(
        "fewer_connections", max_connections=settings.max_connections, allowed=connections, open_files=most
    )
    return settings.model_copy(update={"max_connections": connections})


def _leave_to_the_watchdog(number: int, frame: FrameType | None) -> None:
    """Let the watchdog handle signals while the service loads."""
