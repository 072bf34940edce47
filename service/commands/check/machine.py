"""Whether this machine has what the settings ask for: cores, open files, the native core, the fast parser of Redis's
protocol.
"""

import importlib.util
import resource

import native
from service.commands.check.finding import Finding, Group
from service.cores import scoring_threads, usable_cores
from service.settings import Settings

# Beside connections of clients.
_OWN_FILES = 64


def look_at_machine(settings: Settings) -> list[Finding]:
    """Of the machine that this runs on, which should be the service's, or its like."""
    group = Group("machine")
    _cores(group, settings)
    _files(group, settings)
    _native(group, settings)
    _hiredis(group, settings)
    return group.findings


def _cores(group: Group, settings: Settings) -> None:
    cores = usable_cores()
    scoring = scoring_threads(settings, cores)
    wanted = scoring * settings.threads
    told = f"{scoring} scoring threads with {settings.threads} threads a run on {cores:.3g} usable cores"
    if wanted > max(1.0, cores):
        group.warning(
            told,
            "threads that wait for a core make the slowest requests several times as slow",
            "set MSD_WORKERS=auto, or lower MSD_THREADS, or give the container more cores",
        )
    elif wanted < int(cores) and settings.provider == "cpu":
        group.note(told, "cores stay unused", "set MSD_WORKERS=auto, unless others are to have them")
    else:
        group.ok(told)


def _files(group: Group, settings: Settings) -> None:
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.max_connections + _OWN_FILES
    if limit == resource.RLIM_INFINITY or limit >= needed:
        group.ok(f"{settings.max_connections} connections, and {limit} open files")
        return
    group.warning(
        f"a process may have {limit} open files, and is to have {settings.max_connections} connections",
        "beyond the files' limit new connections are lost without an answer",
        f"raise it (ulimit -n {needed}; the hard limit is {hard}), or lower MSD_MAX_CONNECTIONS",
    )


def _native(group: Group, settings: Settings) -> None:
    why = "Python scores all requests, which takes more of a core for each"
    if not settings.native:
        group.note("the native core is switched off", why, "set MSD_NATIVE=on")
    elif native.core is None:
        group.note(
            f"native core: {native.REASON}",
            why,
            "install a C++ compiler, then run `python -m native.build`; or use the image",
        )
    else:
        group.ok(f"native core, with {native.core.INSTRUCTIONS}")


def _hiredis(group: Group, settings: Settings) -> None:
    if settings.store != "redis":
        return
    if importlib.util.find_spec("hiredis") is None:
        group.error("hiredis is missing", "rows from Redis cannot be read without it", "pip install hiredis")
    else:
        group.ok("hiredis is there")
