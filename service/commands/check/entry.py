"""Who gets in, by the settings: keys and their file, TLS and its certificate, addresses and passwords."""

import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from msd.contract.errors import MsdError
from service.commands.check.finding import Finding, Group
from service.http.entry import LOOPBACK
from service.http.keys import read_keys
from service.http.tls import check_tls
from service.settings import Settings

_SOON_S = 21 * 86_400.0


def look_at_entry(settings: Settings) -> list[Finding]:
    """Reads the files that the settings name."""
    group = Group("entry")
    _keys(group, settings)
    _tls(group, settings)
    _trust(group, settings)
    _playground(group, settings)
    if settings.redis_url is not None:
        _redis(group, settings.redis_url.get_secret_value())
    return group.findings


def _keys(group: Group, settings: Settings) -> None:
    path = settings.keys_file
    if path is None:
        tell = group.note if settings.host in LOOPBACK else group.warning
        tell(
            f"no keys are asked for on {settings.host}",
            "whoever reaches the port may ask for scores, and learn what the model knows",
            "make keys (`msd key new`) and name their file in MSD_KEYS_FILE, or let nobody else reach the port",
        )
        return
    try:
        ring = read_keys(path)
    except MsdError as error:
        group.error(str(error), "a service does not start with it", "mend the file; `msd key new` prints entries")
        return
    _who_may_write(group, path, "whoever may write it can let himself in")
    now = time.time()
    ended = [key.name for key in ring.keys if key.not_after is not None and key.not_after < now]
    soon = [key.name for key in ring.keys if key.not_after is not None and now <= key.not_after < now + _SOON_S]
    if len(ended) == len(ring.keys):
        group.error("all keys have ended", "nobody gets in", "make new ones with `msd key new`")
    elif ended:
        group.note(f"ended: {', '.join(ended)}", "they let nobody in", "take them out of the file")
    if soon:
        group.warning(f"end soon: {', '.join(soon)}", "their users will get 401", "give them new keys in time")
    if not ended and not soon:
        group.ok(f"{len(ring.keys)} keys")


def _tls(group: Group, settings: Settings) -> None:
    if settings.tls_cert is None or settings.tls_key is None:
        if settings.host not in LOOPBACK:
            group.note(
                "plain HTTP",
                "keys and users' data can be read on the way, unless a proxy or mesh encrypts it",
                "set MSD_TLS_CERT and MSD_TLS_KEY, where nothing before the service speaks TLS",
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
            f"{settings.tls_key}: everybody on the machine may read the key",
            "who has it can pass for the service",
            f"chmod o-r {settings.tls_key}",
        )
    _certificate(group, settings.tls_cert)


def _certificate(group: Group, path: Path) -> None:
    try:
        from cryptography import x509
    except ImportError:
        group.note(f"{path}: when it ends was not looked at", "", "pip install 'msd-ctr[sign]' to have it looked at")
        return
    until = x509.load_pem_x509_certificates(path.read_bytes())[0].not_valid_after_utc
    left = (until - datetime.now(UTC)).total_seconds()
    if left < 0:
        group.error(f"{path}: ended {until:%Y-%m-%d}", "no client trusts it", "replace it; no restart is needed")
    elif left < _SOON_S:
        group.warning(f"{path}: ends {until:%Y-%m-%d}", "no client trusts it then", "replace it in time")
    else:
        group.ok(f"TLS, with a certificate until {until:%Y-%m-%d}")


def _trust(group: Group, settings: Settings) -> None:
    if settings.trusted_keys is None:
        return
    places = [settings.trusted_keys]
    places += sorted(settings.trusted_keys.glob("*.pem")) if settings.trusted_keys.is_dir() else []
    for place in places:
        if place.exists():
            _who_may_write(group, place, "whoever may write it decides whose bundles are served")


def _playground(group: Group, settings: Settings) -> None:
    if settings.playground and settings.keys_file is None and settings.host not in LOOPBACK:
        group.warning(
            f"the playground is open to everybody on {settings.host}",
            "it shows users' histories, and what the teacher wrote of them",
            "ask for keys (MSD_KEYS_FILE), or leave MSD_PLAYGROUND out",
        )


def _who_may_write(group: Group, path: Path, why: str) -> None:
    if path.stat().st_mode & stat.S_IWOTH:
        group.error(f"{path}: everybody on the machine may write it", why, f"chmod o-w {path}")


def _redis(group: Group, url: str) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme.startswith("unix") or host in LOOPBACK:
        return
    if "@" not in parts.netloc:
        group.warning(
            "Redis is asked without a password",
            "who reaches it can change rows and live states, and so scores",
            "give the service a user of its own there, with the rights that docs/operations.md lists",
        )
    if not parts.scheme.startswith("rediss"):
        group.note("Redis is asked without TLS", "rows and passwords can be read on the way", "use rediss://…")
