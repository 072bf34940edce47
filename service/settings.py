"""Settings of the service, read from an environment that the caller passes in: names, limits and defaults.

Does not read the process's own environment, and no file but that of Redis' URL.
"""

import difflib
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

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

from msd.contract.errors import MsdError, first_fault
from msd.contract.files import read_small
from msd.contract.request import MAX_CANDIDATES
from service.limits import MAX_DEADLINE_MS
from service.redis.redis_url import parse_redis_url

PREFIX = "MSD_"
MAX_WORKERS = 512
_MAX_URL_BYTES = 2**14
_KUBERNETES = re.compile(r"SERVICE_(HOST|PORT)|PORT_\d+_")


class SettingsError(MsdError):
    """A setting is unknown or has an invalid value."""


class Build(NamedTuple):
    """A release: its version, and the commit it was built from, empty if unknown."""

    version: str
    commit: str


def _is_on(value: object) -> object:
    return {"on": True, "off": False}.get(str(value).lower(), value) if isinstance(value, str) else value


class Settings(BaseModel):
    """All settings of one service process; each is the variable `MSD_` and its name in capitals.

    The text below a field is its description in docs/settings.md and in the chart.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)

    # What is served, and where its rows are
    bundle: Path
    """What to serve: a bundle's folder, a link to one, or a folder of bundles with a pointer `current`
    ([deployments](deployments.md))."""
    store: Literal["file", "redis"] = "file"
    """Where rows are read from: `file` (the bundle's own) or `redis`."""
    redis_url: SecretStr | None = None
    """`redis://[user:password@]host:port/0`, or [another form](redis.md#connections). Its credentials are never
    logged."""
    redis_url_file: Path | None = None
    """File that holds this URL, such as a mounted secret; set it instead of `MSD_REDIS_URL`."""
    revision: Annotated[str, Field(max_length=64, pattern=r"^[\w.+-]*$")] = ""
    """Commit of the build, for `msd_build_info`; the image sets it."""
    # Running the model
    runtime: Literal["auto", "onnxruntime", "openvino"] = "auto"
    """Runtime of the model: `auto` (the fastest that passed export's gate), `onnxruntime` or `openvino` (extra)."""
    provider: Literal["cpu", "cuda"] = "cpu"
    """ONNX Runtime's execution provider: `cpu` or `cuda`. If it is unavailable, the service does not start."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads per model run."""
    workers: int | None = None
    """Scoring threads, hence requests scored at once: a number or `auto`. `auto` divides the usable cores (CPU affinity
    and container limit) by `MSD_THREADS`; with `cuda` it is 1."""
    # Ports, access and TLS
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """Port to listen on; 0 picks a free one."""
    admin_port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """Separate port for probes, metrics and admin routes ([admin port](operations.md#the-admin-port)). Default: all
    are on `MSD_PORT`."""
    reuse_port: Annotated[bool, BeforeValidator(_is_on)] = False
    """`on`: several service processes of one user may listen on `MSD_PORT`; the kernel distributes connections among
    them ([several processes](operations.md#several-processes-on-one-machine))."""
    keys_file: Path | None = None
    """File of API keys ([security](security.md)). Default: scoring needs no key, and there are no admin routes."""
    keys_max_age_seconds: Annotated[float, Field(ge=30)] | None = None
    """Seconds after which the keys of a file that cannot be read any more are refused (503). Default: they stay in
    use."""
    guard_metrics: bool = False
    """Whether `/metrics` needs an API key with the scope `metrics`."""
    tls_cert: Path | None = None
    """PEM file of the certificate and its chain, reloaded when it changes. Default: plain HTTP."""
    tls_key: Path | None = None
    """PEM file of the certificate's private key, unencrypted; reloaded when it changes."""
    tls_client_ca: Path | None = None
    """PEM file of certificate authorities. If set, clients need a certificate from one of them (mutual TLS)."""
    trusted_keys: Path | None = None
    """File of Ed25519 public keys (PEM), or a folder of `*.pem` files. If set, bundles and deltas without a valid
    signature are not served, published or read ([security](security.md)); needs the extra `sign`."""
    # Limits of requests and connections
    max_body_bytes: Annotated[int, Field(ge=1_024, le=2**28)] = 2**20
    """Largest request body; larger ones get 413."""
    max_candidates: Annotated[int, Field(ge=1, le=100_000)] = MAX_CANDIDATES
    """Most candidates per request; more get 413."""
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 4_096
    """Most client connections; beyond it, [an idle or unfinished one is closed](load-shedding.md#connections)."""
    # Deadlines
    deadline_ms: Annotated[int, Field(ge=1, le=MAX_DEADLINE_MS)] = 1_000
    """Default deadline of a request, from its first byte; a caller sets its own with `X-Deadline-Ms`
    ([deadlines](load-shedding.md#deadlines))."""
    explain_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the scoring threads' time for explanations, which yield to all other requests; beyond it, they get 429.
    0 disables explanations."""
    explore_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest share of requests whose first candidate may be explored if they ask for it
    ([exploration](exploration.md)). 0: requests with `explore` get 422."""
    # Rows from Redis
    cache_mb: Annotated[int, Field(ge=0, le=2**20)] = 256
    """Memory for rows read from Redis, half of it for users; live states take up to a quarter of it on top. 0 disables
    the cache."""
    store_timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = 100
    """Time limit for one read of Redis; beyond it, the request is degraded."""
    # Live state
    live: Annotated[bool, BeforeValidator(_is_on)] = False
    """Whether `/v1/events` accepts events and updates counts and histories: `on` or `off`
    ([live state](live-state.md))."""
    state_dir: Path | None = None
    """Persistent folder for live states if rows come from files (extra `live`); with Redis, states are kept there."""
    state_mb: Annotated[int, Field(ge=1, le=2**24)] = 4_096
    """Size limit of `MSD_STATE_DIR`; disk space is taken as states grow."""
    live_lag_seconds: Annotated[float, Field(gt=0, le=1e9)] = 900.0
    """Longest pause between events that counts as normal; after it, the model is told that its counts are old."""
    corrections: Path | None = None
    """File of corrections that `msd recalibrate` writes; scores are corrected by it, and it is reloaded when it changes
    ([calibration that keeps up](feedback.md#calibration-that-keeps-up)). Default: scores are the model's own."""
    # The live catalogue
    catalogue: Annotated[bool, BeforeValidator(_is_on)] = False
    """Whether `/v1/items` takes items that requests then need not describe: `on` or `off`
    ([live catalogue](catalogue.md))."""
    catalogue_items: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Most items of the live catalogue, with removals that are remembered; new ones beyond it get 507."""
    # Texts of cold ads
    encoder: Literal["auto", "on", "off"] = "auto"
    """Whether texts of cold ads are encoded (extra `encode`): `auto` (if the export measured a reliable gain), `on`
    (the service does not start without the encoder) or `off`."""
    encoder_per_s: Annotated[float, Field(gt=0, le=100_000)] = 20.0
    """Most texts encoded per second."""
    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """`debug`, `info`, `warning` or `error`; JSON lines on stdout ([logs](operations.md#logs))."""
    log_dir: Path | None = None
    """Folder of the request log (extra `log`; [feedback](feedback.md)). Default: no request log."""
    log_sample: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of requests in the request log, chosen by a hash of the request ID."""
    log_segments: str | None = None
    """Context features, such as `exchange,placement`, by whose most frequent values calibration is compared, besides
    known and anonymous users ([drift](feedback.md#drift)). The log names those that a bundle does not have."""
    log_max_mb: Annotated[int, Field(ge=1, le=2**24)] = 1_024
    """Size limit of the request log; the oldest files are deleted."""
    # The playground
    playground: bool = False
    """Whether there is a page at `/playground` to try the model out ([playground](playground.md))."""
    playground_without: Path | None = None
    """Bundle that the page compares with: the same model, trained without the LLM's knowledge."""
    # Liveness and shutdown
    drain_seconds: Annotated[float, Field(ge=0, le=3_600)] = 5.0
    """Time after SIGTERM in which new connections are still accepted."""
    grace_seconds: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    """Longest time from SIGTERM to the end of the process, at least `MSD_DRAIN_SECONDS` + 10. The request log is
    written within it: whatever ends the process must wait as long ([operations](operations.md#start-and-stop))."""

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
            raise ValueError(f"{str(workers)[:40]!r} is neither 'auto' nor an integer from 1 to {MAX_WORKERS}")
        return count

    @field_validator("redis_url")
    @classmethod
    def _is_a_redis_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            parse_redis_url(url.get_secret_value())
        return url

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.playground_without is not None and not self.playground:
            raise ValueError("MSD_PLAYGROUND_WITHOUT needs MSD_PLAYGROUND=true")
        if self.admin_port and self.admin_port == self.port:
            raise ValueError(f"MSD_ADMIN_PORT={self.admin_port} equals MSD_PORT: set another port, or unset it")
        if self.store == "redis" and self.redis_url is None:
            raise ValueError("MSD_STORE=redis needs MSD_REDIS_URL, e.g. redis://localhost:6379/0")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("MSD_TLS_CERT and MSD_TLS_KEY must be set together: one of them is missing")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("MSD_TLS_CLIENT_CA needs MSD_TLS_CERT and MSD_TLS_KEY")
        if self.guard_metrics and self.keys_file is None:
            raise ValueError("MSD_GUARD_METRICS needs MSD_KEYS_FILE, the file of API keys")
        if self.runtime == "openvino" and self.provider != "cpu":
            raise ValueError(
                f"MSD_RUNTIME=openvino does not support MSD_PROVIDER={self.provider}; set MSD_PROVIDER=cpu"
            )
        for name, is_on in (("LIVE", self.live), ("CATALOGUE", self.catalogue)):
            if is_on and self.store != "redis" and self.state_dir is None:
                raise ValueError(f"MSD_{name}=on needs MSD_STATE_DIR, a persistent folder")
        return self

    @property
    def files_per_connection(self) -> int:
        """Return the open files of a client's connection: with TLS, a pair of sockets to the front too."""
        return 1 if self.tls_cert is None else 3

    @property
    def build(self) -> Build:
        """Return the running release."""
        try:
            return Build(version("msd-ctr"), self.revision)
        except PackageNotFoundError:  # a checkout that is not installed
            return Build("0", self.revision)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the settings in the `MSD_*` variables of `environ`. Raises SettingsError naming the variable at
        fault."""
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
    """Return the URL in MSD_REDIS_URL, or in the file named by MSD_REDIS_URL_FILE. Raises SettingsError."""
    url, place = environ.get("MSD_REDIS_URL"), environ.get("MSD_REDIS_URL_FILE")
    if not place:
        return url
    if url:
        raise SettingsError("MSD_REDIS_URL and MSD_REDIS_URL_FILE are both set: set one of them")
    content = read_small(Path(place), _MAX_URL_BYTES, SettingsError, "; MSD_REDIS_URL_FILE must name a file with a URL")
    try:
        return content.decode("ascii").strip()
    except UnicodeDecodeError:
        raise SettingsError(f"{place}: not a Redis URL; expected for example redis://localhost:6379/0") from None


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    message = f"{PREFIX}{name}: no such setting; " + (
        f"did you mean {PREFIX}{near[0]}?" if near else f"there are: {', '.join(PREFIX + setting for setting in known)}"
    )
    if _KUBERNETES.match(name):
        message += " (Kubernetes injects such variables for a Service named msd: set enableServiceLinks: false)"
    return message


def _explain(error: ValidationError) -> str:
    place, words, kind = first_fault(error)
    if not place:
        return words
    if (place, kind) == ("bundle", "missing"):
        return "no bundle is named: `msd serve BUNDLE`, or MSD_BUNDLE; `msd export` writes one, and so does `make demo`"
    return f"{PREFIX}{place.partition('.')[0].upper()}: {'not set' if kind == 'missing' else words}"
