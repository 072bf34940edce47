"""Signature Version 4: the examples that AWS publishes come out to the letter."""

import pytest

from operations.fetch.stores import object_address, s3_secrets
from operations.fetch.web import FetchError

# https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, "Example: GET Object".
EXAMPLE = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
}
MOMENT = 1_369_353_600.0  # 2013-05-24T00:00:00Z
SIGNATURE = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"


def test_the_published_example_gets_the_published_signature() -> None:
    address = "https://examplebucket.s3.amazonaws.com/test.txt"
    sent = s3_secrets(address, "us-east-1", EXAMPLE, MOMENT, {"range": "bytes=0-9"})

    assert sent["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        f"SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,Signature={SIGNATURE}"
    )
    assert sent["x-amz-date"] == "20130524T000000Z"


def test_what_is_signed_for_is_part_of_the_signature() -> None:
    def signature(address: str = "https://h/b/k", region: str = "eu-west-1", **more: str) -> str:
        return s3_secrets(address, region, {**EXAMPLE, **more}, MOMENT)["Authorization"].rsplit("=", 1)[1]

    others = [
        signature(),
        signature("https://h/b/K"),
        signature("https://i/b/k"),
        signature(region="us-east-1"),
        signature(AWS_SESSION_TOKEN="t"),
        signature(AWS_SECRET_ACCESS_KEY="other"),
    ]
    assert len(set(others)) == len(others)


def test_addresses() -> None:
    assert object_address("b", "a/k 1+2.tar", {}) == (
        "https://s3.us-east-1.amazonaws.com/b/a/k%201%2B2.tar",
        "us-east-1",
    )
    assert object_address("b", "k", {"AWS_DEFAULT_REGION": "eu-west-1"})[0] == "https://s3.eu-west-1.amazonaws.com/b/k"
    environ = {"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL_S3": "http://minio:9000/"}
    assert object_address("b", "k", environ) == ("http://minio:9000/b/k", "eu-west-1")


def test_no_credentials_sign_nothing() -> None:
    assert s3_secrets("https://h/b/k", "r", {}) == {}


def test_mistakes_are_named() -> None:
    with pytest.raises(FetchError, match="must be set together"):
        s3_secrets("https://h/b/k", "r", {"AWS_ACCESS_KEY_ID": "a"})
    with pytest.raises(FetchError, match="AWS_ENDPOINT_URL_S3=minio: not a URL"):
        object_address("b", "k", {"AWS_ENDPOINT_URL_S3": "minio"})
    with pytest.raises(FetchError, match="names no object"):
        object_address("b", "", {})
