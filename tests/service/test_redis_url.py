"""Where a Redis URL leads in each of its forms, and what is wrong with one that leads nowhere, without credentials."""

import pytest

from service.redis.redis_url import parse_redis_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "form", "address", "first"),
    [
        ("redis://localhost", "server", "localhost:6379", "redis://localhost"),
        (f"rediss://u:{SECRET}@redis.example:6380/2", "server", "redis.example:6380", None),
        (f"redis://:{SECRET}@[::1]:6379/0", "server", "[::1]:6379", None),
        ("unix:///run/redis.sock", "server", "unix:/run/redis.sock", "unix:///run/redis.sock"),
        (
            f"redis+sentinel://u:{SECRET}%40@a:1,b,[::2]:3/ads/2?sentinel_password=s%26&x=1",
            "sentinel",
            "a:1,b:26379,[::2]:3 (ads)",
            f"redis://u:{SECRET}%40@h:9/2?x=1",
        ),
        ("redis+sentinel://a/ads", "sentinel", "a:26379 (ads)", "redis://h:9/0"),
        ("redis+cluster://a,b:7/", "cluster", "a:6379,b:7", "redis://h:9/0"),
        ("rediss+cluster://u:p@a?ssl_ca_certs=/c.pem", "cluster", "a:6379", "rediss://u:p@h:9/0?ssl_ca_certs=%2Fc.pem"),
    ],
)
def test_forms(url: str, form: str, address: str, first: str | None) -> None:
    parsed = parse_redis_url(url)

    assert (parsed.form, parsed.address) == (form, address)
    assert parsed.of_server(("h", 9)) == (first or url)
    assert SECRET not in repr(parsed)


def test_sentinels_have_credentials_of_their_own() -> None:
    parsed = parse_redis_url("rediss+sentinel://u:p@a/ads/2?sentinel_username=w&sentinel_password=s%26&ssl_ca_certs=/c")

    assert parsed.of_sentinel(("::1", 5)) == "rediss://[::1]:5/0?ssl_ca_certs=%2Fc&username=w&password=s%26"
    assert parse_redis_url("redis+sentinel://u:p@a/ads").of_sentinel(("a", 5)) == "redis://a:5/0"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        f"http://:{SECRET}@h/",
        f"redis://:{SECRET}@/0",
        f"redis://:{SECRET}@h:port/0",
        f"redis://:{SECRET}@a:1,b:2/0",
        f"redis+sentinel://:{SECRET}@a",
        f"redis+sentinel://:{SECRET}@a/ads/x",
        f"redis+sentinel://:{SECRET}@a/ads/1/2",
        f"redis+sentinel://:{SECRET}@a,,b/ads",
        f"redis+cluster://:{SECRET}@a/3",
        f"redis+ring://:{SECRET}@a",
        f"unix+cluster://:{SECRET}@/a",
        f"redis://:{SECRET}@[::1/0",
    ],
)
def test_what_is_no_url_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="redis") as caught:
        parse_redis_url(url)
    assert SECRET not in str(caught.value)
