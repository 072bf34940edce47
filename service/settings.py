"""What the service can be told from outside, read from an environment that the caller hands in.

Knows names, limits and defaults. Does not read the process's own environment, and no file but that of Redis' URL.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from msd.contract.errors import MsdError
from msd.contract.files import read_small
from msd.contract.request import MAX_CANDIDATES
from service.redis.redis_url import parse_redis_url

PREFIX = "MSD_"
MAX_WORKERS = 512
_MAX_URL_BYTES = 2**14
_KUBERNETES = re.compile(r"SERVICE_(HOST|PORT)|PORT_\d+_")


class SettingsError(MsdError):
    """A setting is unknown or has a value that it cannot have."""


def _is_on(value: object) -> object:
    """A switch as an environment has it."""
    return {"on": True, "off": False}.get(str(value).lower(), value) if isinstance(value, str) else value


class Settings(BaseModel):
    """All settings of one service process; each is the variable `MSD_` and its name in capitals."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    bundle: Path
    store: Literal["file", "redis"] = "file"
    redis_url: SecretStr | None = None
    redis_url_file: Path | None = None
    """Where `redis_url` was read from, if it was."""
    runtime: Literal["auto", "onnxruntime", "openvino"] = "auto"
    provider: Literal["cpu", "cuda"] = "cpu"
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    native: Annotated[bool, BeforeValidator(_is_on)] = True
    """`on` or `off` in an environment; on, requests are scored by the native core where it is built."""
    merge: Literal["auto", "on", "off"] = "auto"
    workers: int | None = None
    """Scoring threads; None, `auto` in an environment, is as many as there are cores for."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    admin_port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """None: metrics and admin routes are on the port."""
    keys_file: Path | None = None
    """None: whoever reaches the port may ask for scores, and there are no admin routes."""
    guard_metrics: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    trusted_keys: Path | None = None
    """None: bundles need no signature."""
    tls_client_ca: Path | None = None
    """None: any client may connect."""
    revision: Annotated[str, Field(max_length=64, pattern=r"^[\w.+-]*$")] | None = None
    """The commit that was built, as `msd_build_info` tells it; None: that of the installed package, if it says."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    max_body_bytes: Annotated[int, Field(ge=1_024, le=2**28)] = 2**20
    max_header_bytes: Annotated[int, Field(ge=1_024, le=2**20)] = 2**15
    max_candidates: Annotated[int, Field(ge=1, le=100_000)] = MAX_CANDIDATES
    max_queued_rows: Annotated[int, Field(ge=1)] = 10 * MAX_CANDIDATES
    head_timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 10_000
    reply_timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 30_000
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 4_096
    inflight_mb: Annotated[int, Field(ge=1, le=2**20)] = 64
    body_timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 5_000
    cache_mb: Annotated[int, Field(ge=0, le=2**20)] = 256
    fill_rows_per_s: Annotated[int, Field(ge=0, le=1_000_000)] = 5_000
    store_timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = 100
    deadline_ms: Annotated[int, Field(ge=1, le=600_000)] = 1_000
    live: Annotated[bool, BeforeValidator(_is_on)] = False
    """`on` or `off` in an environment."""
    state_dir: Path | None = None
    state_mb: Annotated[int, Field(ge=1, le=2**24)] = 4_096
    event_horizon_hours: Annotated[float, Field(gt=0, le=720)] = 24.0
    live_lag_seconds: Annotated[float, Field(gt=0, le=1e9)] = 900.0
    explain_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Of the scoring threads' time, what explanations may take; 0 refuses them."""
    max_deadline_ms: Annotated[int, Field(ge=1, le=600_000)] = 60_000
    encoder: Literal["auto", "on", "off"] = "auto"
    encoder_wait_ms: Annotated[int, Field(ge=0, le=60_000)] = 50
    encoder_per_s: Annotated[float, Field(gt=0, le=100_000)] = 20.0
    encoder_queue: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    encoded_ttl_s: Annotated[int, Field(ge=0, le=31_536_000)] = 0
    hang_seconds: Annotated[float, Field(ge=1, le=3_600)] = 20.0
    drain_seconds: Annotated[float, Field(ge=0, le=3_600)] = 5.0
    trace: Annotated[bool, BeforeValidator(_is_on)] = False
    """`on` or `off` in an environment; where to, the usual variables of OpenTelemetry say."""
    trace_sample: Annotated[float, Field(ge=0, le=1)] = 0.01
    log_dir: Path | None = None
    log_sample: Annotated[float, Field(ge=0, le=1)] = 0.01
    log_max_mb: Annotated[int, Field(ge=1, le=2**24)] = 1_024
    log_max_days: Annotated[float, Field(gt=0, le=36_500)] = 30.0
    log_flush_seconds: Annotated[float, Field(ge=0.05, le=3_600)] = 60.0
    playground: bool = False
    playground_without: Path | None = None
    """None: the playground compares with nothing."""

    @field_validator("workers", mode="before")
    @classmethod
    def _is_a_count(cls, workers: object) -> int | None:
        if workers is None or str(workers).lower() == "auto":
            return None
        try:
            count = int(str(workers))
        except ValueError:
            count = 0
        if not 1 <= count <= MAX_WORKERS:
            raise ValueError(f"{str(workers)[:40]!r} is neither 'auto' nor a whole number from 1 to {MAX_WORKERS}")
        return count

    @field_validator("redis_url")
    @classmethod
    def _is_a_redis_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            parse_redis_url(url.get_secret_value())
        return url

    @model_validator(mode="after")
    def _has_a_page_to_compare_on(self) -> Self:
        if self.playground_without is not None and not self.playground:
            raise ValueError("MSD_PLAYGROUND_WITHOUT needs MSD_PLAYGROUND=true")
        return self

    @model_validator(mode="after")
    def _has_a_port_for_each(self) -> Self:
        if self.admin_port and self.admin_port == self.port:
            raise ValueError(f"MSD_ADMIN_PORT={self.admin_port} is MSD_PORT, too: give it another, or none")
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.store == "redis" and self.redis_url is None:
            raise ValueError("MSD_STORE=redis needs MSD_REDIS_URL, e.g. redis://localhost:6379/0")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("MSD_TLS_CERT and MSD_TLS_KEY go together: one of them is not set")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("MSD_TLS_CLIENT_CA needs MSD_TLS_CERT and MSD_TLS_KEY")
        if self.encoded_ttl_s and self.store != "redis":
            raise ValueError("MSD_ENCODED_TTL_S needs MSD_STORE=redis: vectors of texts are shared there")
        if self.guard_metrics and self.keys_file is None:
            raise ValueError("MSD_GUARD_METRICS needs MSD_KEYS_FILE, the file of the keys to ask for")
        if self.runtime == "openvino" and self.provider != "cpu":
            raise ValueError(f"MSD_RUNTIME=openvino has no MSD_PROVIDER={self.provider}; it runs on the CPU")
        if self.live and self.store == "file" and self.state_dir is None:
            raise ValueError("MSD_LIVE=on needs MSD_STATE_DIR, a folder that lasts, where live states are kept")
        return self

    @model_validator(mode="after")
    def _are_enough(self) -> Self:
        if self.max_deadline_ms < self.deadline_ms:
            raise ValueError(
                f"MSD_DEADLINE_MS={self.deadline_ms} is more than a caller may ask for"
                f" (MSD_MAX_DEADLINE_MS={self.max_deadline_ms})"
            )
        if self.inflight_mb * 2**20 < self.max_body_bytes:
            raise ValueError(
                f"MSD_INFLIGHT_MB={self.inflight_mb} is less than one full body"
                f" (MSD_MAX_BODY_BYTES={self.max_body_bytes})"
            )
        if self.max_queued_rows < self.max_candidates:
            raise ValueError(
                f"MSD_MAX_QUEUED_ROWS={self.max_queued_rows} is less than one full request"
                f" (MSD_MAX_CANDIDATES={self.max_candidates})"
            )
        return self

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """The settings in the `MSD_*` variables of `environ`. Raises SettingsError naming the variable at fault."""
        given = {name.removeprefix(PREFIX): value for name, value in environ.items() if name.startswith(PREFIX)}
        if url := redis_url_of(environ):
            given["REDIS_URL"] = url
        known = {name.upper(): name for name in cls.model_fields}
        for name in sorted(set(given) - set(known)):
            raise SettingsError(_unknown(name, list(known)))
        try:
            return cls.model_validate({known[name]: value for name, value in given.items()})
        except ValidationError as error:
            raise SettingsError(_explain(error)) from None


def redis_url_of(environ: Mapping[str, str]) -> str | None:
    """The URL in MSD_REDIS_URL, or in the file that MSD_REDIS_URL_FILE names. Raises SettingsError."""
    url, place = environ.get("MSD_REDIS_URL"), environ.get("MSD_REDIS_URL_FILE")
    if not place:
        return url
    if url:
        raise SettingsError("MSD_REDIS_URL and MSD_REDIS_URL_FILE are both set: set one of them")
    content = read_small(
        Path(place), _MAX_URL_BYTES, SettingsError, "; MSD_REDIS_URL_FILE has to name a file with a URL"
    )
    try:
        return content.decode("ascii").strip()
    except UnicodeDecodeError:
        raise SettingsError(f"{place}: not a URL; it looks like redis://localhost:6379/0") from None


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    message = f"{PREFIX}{name}: no such setting; " + (
        f"did you mean {PREFIX}{near[0]}?" if near else f"there are: {', '.join(PREFIX + one for one in known)}"
    )
    if _KUBERNETES.match(name):
        message += " (Kubernetes injects such variables for a Service named msd: set enableServiceLinks: false)"
    return message


def _explain(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    text = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return text
    name = f"{PREFIX}{str(first['loc'][0]).upper()}"
    return f"{name}: not set" if first["type"] == "missing" else f"{name}: {text}"
