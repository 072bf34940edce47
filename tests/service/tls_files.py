"""A server's certificates, and clients that trust them."""

import os
import ssl
from pathlib import Path

import httpx
import trustme

from tests.service.live import LiveService


class Files:
    """A server's files, signed by an authority, and what its clients need."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.clients = trustme.CA()
        self.cert, self.key, self.client_ca = folder / "cert.pem", folder / "key.pem", folder / "clients.pem"
        self.clients.cert_pem.write_to_path(str(self.client_ca))
        self.renew()

    def renew(self) -> None:
        """A new certificate with a new key, each in one step, one after the other."""
        issued = self.authority.issue_cert("127.0.0.1")
        for path, blobs in ((self.cert, issued.cert_chain_pems), (self.key, [issued.private_key_pem])):
            temporary = path.with_suffix(".new")
            temporary.write_bytes(b"".join(blob.bytes() for blob in blobs))
            os.replace(temporary, path)

    def context(self, client: trustme.CA | None = None) -> ssl.SSLContext:
        """A client's, with a certificate of its own from an authority, if one is given."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if client is not None:
            client.issue_cert("ads@example.org").configure_cert(context)
        return context


def known(service: LiveService, files: Files) -> httpx.Client:
    context = files.context(files.clients)
    return httpx.Client(base_url=f"https://127.0.0.1:{service.port}", verify=context, trust_env=False, timeout=30)
