"""Credentials by the pod's identity: from a node's agent and from STS, and what is said where there are none."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from operations.fetch.fetch import fetch
from operations.fetch.stores import with_identity
from operations.fetch.web import FetchError, Web
from service.trust import Trust
from tests.operations.fetch.conftest import Archive
from tests.operations.fetch.keeper import Keeper, keeper

STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AKIA</AccessKeyId>
<SecretAccessKey>s/+=</SecretAccessKey><SessionToken>t0k</SessionToken></Credentials>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""
FOUND = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s/+=", "AWS_SESSION_TOKEN": "t0k"}


@pytest.fixture
def kept() -> Iterator[Keeper]:
    """A node's agent and STS at once."""
    with keeper() as kept:
        kept.files["/v1/credentials"] = json.dumps(
            {"AccessKeyId": "AKIA", "SecretAccessKey": "s/+=", "Token": "t0k", "Expiration": "2026-01-01T00:00:00Z"}
        ).encode()
        kept.files["/"] = STS.encode()
        yield kept


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """The token that Kubernetes puts into a pod."""
    path = tmp_path / "token"
    path.write_text("ey.J0.x\n")
    return path


def of_agent(kept: Keeper, token: Path) -> dict[str, str]:
    """The variables of EKS Pod Identity."""
    url = f"{kept.url}/v1/credentials"
    return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token)}


def of_role(kept: Keeper, token: Path) -> dict[str, str]:
    """The variables of a role for a service account."""
    role = {"AWS_ROLE_ARN": "arn:aws:iam::1:role/ctr", "AWS_WEB_IDENTITY_TOKEN_FILE": str(token)}
    return {**role, "AWS_ENDPOINT_URL_STS": kept.url}


def test_a_nodes_agent_is_shown_the_token(kept: Keeper, token: Path) -> None:
    environ = of_agent(kept, token)
    assert with_identity(environ, "eu-west-1", Web()) == {**environ, **FOUND}
    ((_, headers),) = kept.asked
    assert headers["authorization"] == "ey.J0.x"


def test_sts_is_shown_the_token_for_the_role(kept: Keeper, token: Path) -> None:
    environ = of_role(kept, token)
    assert with_identity(environ, "eu-west-1", Web()) == {**environ, **FOUND}
    ((path, _),) = kept.asked
    assert "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fctr" in path
    assert "WebIdentityToken=ey.J0.x" in path


def test_keys_of_the_environment_go_first(kept: Keeper, token: Path) -> None:
    environ = {**of_role(kept, token), "AWS_ACCESS_KEY_ID": "own", "AWS_SECRET_ACCESS_KEY": "own"}
    assert with_identity(environ, "eu-west-1", Web()) is environ
    assert with_identity({}, "eu-west-1", Web()) == {}
    assert kept.asked == []


@pytest.mark.parametrize("variables", [of_agent, of_role])
def test_what_gives_no_credentials_is_said_without_the_token(
    kept: Keeper,
    token: Path,
    variables: Callable[[Keeper, Path], dict[str, str]],
) -> None:
    environ = variables(kept, token)
    kept.files |= {"/": b"<html>", "/v1/credentials": b"[1]"}
    with pytest.raises(FetchError, match="returned no credentials") as raised:
        with_identity(environ, "eu-west-1", Web())
    assert "ey.J0.x" not in str(raised.value)
    kept.files.clear()
    with pytest.raises(FetchError, match="answers 404") as raised:
        with_identity(environ, "eu-west-1", Web())
    assert "ey.J0.x" not in str(raised.value)
    token.unlink()
    with pytest.raises(FetchError, match="No such file"):
        with_identity(environ, "eu-west-1", Web())


def test_an_agent_elsewhere_gets_no_token_without_tls(kept: Keeper, token: Path) -> None:
    environ = {**of_agent(kept, token), "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://203.0.113.1/v1/credentials"}
    with pytest.raises(FetchError, match="neither HTTPS nor an agent of this node"):
        with_identity(environ, "eu-west-1", Web())


def test_an_archive_of_s3_is_fetched_by_the_pods_identity(
    kept: Keeper, token: Path, archive: Archive, tmp_path: Path
) -> None:
    kept.files["/models/b.tar.gz"] = archive.content
    environ = {**of_role(kept, token), "AWS_ENDPOINT_URL_S3": kept.url, "AWS_REGION": "eu-west-1"}
    fetch("s3://models/b.tar.gz", archive.digest, tmp_path / "served", 2**30, Trust(None), environ)
    (headers,) = [headers for path, headers in kept.asked if path == "/models/b.tar.gz"]
    assert headers["x-amz-security-token"] == "t0k"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIA/")
