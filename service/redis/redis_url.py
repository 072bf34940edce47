"""Redis URLs: one server, a master named by Sentinels, a cluster.

Parses them. Does not connect; redis-py interprets options.
"""

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

Form = Literal["server", "sentinel", "cluster"]
_FORMS: dict[str, Form] = {"": "server", "sentinel": "sentinel", "cluster": "cluster"}
_EXAMPLES: dict[Form, str] = {
    "server": "redis://[user:password@]host:port/0",
    "sentinel": "redis+sentinel://[user:password@]host:26379,host:26379/master_name[/0]",
    "cluster": "redis+cluster://[user:password@]host:6379,host:6379",
}
_PORTS: dict[Form, int] = {"server": 6379, "sentinel": 26379, "cluster": 6379}
# Only for Sentinels, which have their own users.
_SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}

Address = tuple[str, int]


@dataclass(frozen=True)
class RedisUrl:
    """A parsed URL; its text never contains credentials."""

    form: Form
    hosts: tuple[Address, ...]
    """The server, the Sentinels, or some nodes of the cluster; none behind a Unix socket."""
    master: str
    """The Sentinels' name of the master; otherwise empty."""
    address: str
    """The address, for messages."""
    plain: str = field(repr=False)
    """The original URL of one server."""
    _scheme: str = field(repr=False)
    _login: str = field(repr=False)
    _tail: str = field(repr=False)
    _options: tuple[tuple[str, str], ...] = field(repr=False)

    def of_server(self, address: Address) -> str:
        """Return the URL of one of the servers, as redis-py reads it."""
        if self.form == "server":
            return self.plain
        return f"{self._scheme}://{self._login}{host_port(address)}{self._tail}{self._query(False)}"

    def of_sentinel(self, address: Address) -> str:
        """Return the URL of a Sentinel, with its own credentials or none."""
        return f"{self._scheme}://{host_port(address)}/0{self._query(True)}"

    def _query(self, for_sentinel: bool) -> str:
        own = [(_SENTINEL_OPTIONS[name], value) for name, value in self._options if name in _SENTINEL_OPTIONS]
        others = [(name, value) for name, value in self._options if name not in _SENTINEL_OPTIONS]
        options = urlencode(others + own if for_sentinel else others)
        return f"?{options}" if options else ""


def parse_redis_url(url: str) -> RedisUrl:
    """Parse a URL. Raises ValueError for an unknown form, without quoting it."""
    try:
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        form = _FORMS.get(kind)
        login, at, netloc = parts.netloc.rpartition("@")
        if scheme == "unix" and form == "server" and parts.path:
            return RedisUrl("server", (), "", f"unix:{parts.path}", url, scheme, "", "", ())
        if form is None or scheme not in ("redis", "rediss") or not netloc:
            raise ValueError
        hosts = tuple(_host(part, _PORTS[form]) for part in netloc.split(","))
        master, tail = _place(form, parts.path)
    except ValueError:
        raise ValueError(f"not a Redis URL; expected {', '.join(_EXAMPLES.values())}, or rediss… for TLS") from None
    if form == "server" and len(hosts) > 1:
        raise ValueError(f"several hosts need a kind: {_EXAMPLES['sentinel']} or {_EXAMPLES['cluster']}")
    address = ",".join(map(host_port, hosts)) + (f" ({master})" if master else "")
    options = tuple(parse_qsl(parts.query, keep_blank_values=True))
    return RedisUrl(form, hosts, master, address, url, scheme, login + at, tail, options)


def host_port(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host(text: str, default_port: int) -> Address:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError
    return parts.hostname, parts.port or default_port


def _place(form: Form, path: str) -> tuple[str, str]:
    """Return the master's name, and the database's path."""
    if form == "server":
        return "", path
    if form == "cluster":
        if path not in ("", "/", "/0"):
            raise ValueError
        return "", "/0"
    _, master, *database = path.split("/")
    if not master or len(database) > 1 or not all(part.isdigit() or not part for part in database):
        raise ValueError
    return master, f"/{database[0] or 0}" if database else "/0"
