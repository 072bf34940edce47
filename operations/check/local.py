"""Checks without a running service: whether this machine fits the settings, who has access, and whether the wanted
bundles can be served.
"""

import resource
import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import native
from msd.contract.bundle import Bundle
from msd.contract.errors import MsdError
from operations.check.findings import Finding, Group
from service.deployment.source import Source
from service.http.entry import LOOPBACK
from service.http.keys import read_keys
from service.http.tls import check_tls
from service.machine import scoring_threads, usable_cores
from service.runtimes.choice import open_runtime
from service.settings import Settings
from service.trust import Trust

# Descriptors beside client connections.
_OWN_FILES = 64
_DAY_S = 86_400.0
_SOON_S, _OLD_S = 21 * _DAY_S, 14 * _DAY_S


def look_at_machine(settings: Settings) -> list[Finding]:
    """Check this machine, which should be the service's or like it."""
    group = Group("machine")
    _cores(group, settings)
    _files(group, settings)
    _native(group)
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
        group.note(told, "cores are idle", "set MSD_WORKERS=auto, unless other processes need them")
    else:
        group.ok(told)


def _files(group: Group, settings: Settings) -> None:
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.max_connections * settings.files_per_connection + _OWN_FILES
    if limit == resource.RLIM_INFINITY or limit >= needed:
        group.ok(f"{settings.max_connections} connections, and {limit} open files")
        return
    group.warning(
        f"the limit of open files is {limit}, but MSD_MAX_CONNECTIONS is {settings.max_connections}",
        "beyond the file limit, new connections are lost without a reply",
        f"raise it (ulimit -n {needed}; the hard limit is {hard}), or lower MSD_MAX_CONNECTIONS",
    )


def _native(group: Group) -> None:
    if native.core is None:
        group.error(
            f"native core: {native.REASON}",
            "nothing can be scored",
            "install a C++ compiler, then run `python -m native.build`; or use the image",
        )
    else:
        group.ok(f"native core, with {native.core.INSTRUCTIONS}")


def look_at_entry(settings: Settings) -> list[Finding]:
    """Check the files of keys and certificates."""
    group = Group("entry")
    _keys(group, settings)
    _tls(group, settings)
    if settings.trusted_keys is not None:
        for path in (settings.trusted_keys, *sorted(settings.trusted_keys.glob("*.pem"))):
            if path.exists():
                _who_may_write(group, path, "anyone who can write it decides whose bundles are served")
    if settings.playground and settings.keys_file is None and settings.host not in LOOPBACK:
        group.warning(
            f"the playground needs no API key on {settings.host}",
            "it shows users' histories, and what the teacher wrote of them",
            "set MSD_KEYS_FILE, or unset MSD_PLAYGROUND",
        )
    if settings.redis_url is not None:
        _redis(group, settings.redis_url.get_secret_value())
    return group.findings


def _keys(group: Group, settings: Settings) -> None:
    path = settings.keys_file
    if path is None:
        tell = group.note if settings.host in LOOPBACK else group.warning
        tell(
            f"scoring needs no API key on {settings.host}",
            "any client that reaches the port can request scores and learn from the model",
            "make keys (`msd key new`) and name their file in MSD_KEYS_FILE, or restrict access to the port",
        )
        return
    try:
        ring = read_keys(path)
    except MsdError as error:
        group.error(str(error), "a service does not start with it", "fix the file; `msd key new` prints entries")
        return
    _who_may_write(group, path, "anyone who can write it can grant themselves access")
    now = time.time()
    ended = [key.name for key in ring.keys if key.has_ended(now)]
    soon = [key.name for key in ring.keys if not key.has_ended(now) and key.has_ended(now + _SOON_S)]
    if len(ended) == len(ring.keys):
        group.error("all keys have expired", "all requests get 401", "make new ones with `msd key new`")
    elif ended:
        group.note(f"expired: {', '.join(ended)}", "they get 401", "remove them from the file")
    if soon:
        group.warning(f"expire soon: {', '.join(soon)}", "their users will get 401", "issue new keys in time")
    if not ended and not soon:
        group.ok(f"{len(ring.keys)} keys")


def _tls(group: Group, settings: Settings) -> None:
    if settings.tls_cert is None or settings.tls_key is None:
        if settings.host not in LOOPBACK:
            group.note(
                "plain HTTP",
                "keys and user data can be read in transit, unless a proxy or mesh encrypts them",
                "set MSD_TLS_CERT and MSD_TLS_KEY, unless a proxy terminates TLS",
            )
        return
    try:
        check_tls(settings)
    except MsdError as error:
        group.error(str(error), "a service does not start with it", "name a PEM chain and its PEM key")
        return
    mode = settings.tls_key.stat().st_mode
    if mode & stat.S_IROTH:
        group.warning(
            f"{settings.tls_key}: all users of the machine can read the private key",
            "its holder can impersonate the service",
            f"chmod o-r {settings.tls_key}",
        )
    _certificate(group, settings.tls_cert)


def _certificate(group: Group, path: Path) -> None:
    try:
        from cryptography import x509
    except ImportError:
        group.note(f"{path}: its expiry was not checked", "", "pip install 'msd-ctr[sign]' to check it")
        return
    until = x509.load_pem_x509_certificates(path.read_bytes())[0].not_valid_after_utc
    left = (until - datetime.now(UTC)).total_seconds()
    if left < 0:
        group.error(f"{path}: expired {until:%Y-%m-%d}", "no client trusts it", "replace it; no restart is needed")
    elif left < _SOON_S:
        group.warning(f"{path}: expires {until:%Y-%m-%d}", "no client trusts it then", "replace it in time")
    else:
        group.ok(f"TLS, with a certificate until {until:%Y-%m-%d}")


def _who_may_write(group: Group, path: Path, why: str) -> None:
    if path.stat().st_mode & stat.S_IWOTH:
        group.error(f"{path}: all users of the machine can write it", why, f"chmod o-w {path}")


def _redis(group: Group, url: str) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme.startswith("unix") or host in LOOPBACK:
        return
    if "@" not in parts.netloc:
        group.warning(
            "Redis is used without a password",
            "anyone who reaches it can change rows and live states, and thus scores",
            "create an ACL user for the service with the permissions in docs/redis.md",
        )
    if not parts.scheme.startswith("rediss"):
        group.note("Redis is used without TLS", "rows and passwords can be read in transit", "use rediss://…")


def look_at_bundles(settings: Settings) -> tuple[list[Finding], list[Bundle]]:
    """Verify and load the bundles one by one; return the valid ones."""
    group = Group("bundle")
    bundles = []
    try:
        trust = Trust(settings.trusted_keys)
        for folder in sorted(Source(settings).wanted().folders):
            bundles.append(trust.open(folder, rows=settings.store == "file"))
    except MsdError as error:
        group.error(str(error), "the service neither starts with it nor swaps to it", "copy or export it again")
    for bundle in bundles:
        _runtime(group, settings, bundle)
        _age(group, bundle)
    return group.findings, bundles


def _runtime(group: Group, settings: Settings, bundle: Bundle) -> None:
    try:
        engine = open_runtime(bundle, settings).engine
    except MsdError as error:
        group.error(str(error), "a service does not start with it", "see above")
        return
    told = f"{bundle.folder}: {bundle.manifest.model_version}, run by {engine.name} in {engine.precision}"
    if engine.key not in bundle.manifest.tolerances:
        known = ", ".join(bundle.manifest.tolerances) or "none"
        group.error(
            f"{told}, for which it has no tolerance; it has: {known}",
            "it cannot verify its scores and never becomes ready",
            "set MSD_RUNTIME=auto and MSD_PROVIDER=cpu, or export it for this runtime",
        )
    else:
        group.ok(f"{told} on {engine.provider}")


def _age(group: Group, bundle: Bundle) -> None:
    days = (time.time() - bundle.manifest.created_at) / _DAY_S
    told = f"{bundle.folder}: made {days:.0f} days ago"
    if days < -1 / 24:
        group.warning(f"{bundle.folder}: made in the future", "a clock is wrong, here or there", "set the clocks")
    elif days * _DAY_S > _OLD_S:
        group.warning(told, "users and items have changed since", "train and export again, or publish deltas")
    else:
        group.ok(told)
