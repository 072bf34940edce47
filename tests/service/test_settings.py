"""Settings: what an environment may say, and that a mistake is named together with its mending."""

from pathlib import Path

import pytest

from service.settings import Settings, SettingsError

SECRET = "hunter2"


def test_reads_variables_and_keeps_defaults() -> None:
    settings = Settings.from_environ({"MSD_BUNDLE": "b", "MSD_THREADS": "2", "HOME": "/", "OTHER_MSD_X": "1"})

    assert (str(settings.bundle), settings.threads, settings.store, settings.port) == ("b", 2, "file", 8080)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "no bundle is named: `msd serve BUNDLE`, or MSD_BUNDLE"),
        ({"MSD_BUNDLE": "b", "MSD_STOER": "file"}, "MSD_STOER: no such setting; did you mean MSD_STORE?"),
        ({"MSD_BUNDLE": "b", "MSD_SERVICE_HOST": "10.0.0.1"}, "enableServiceLinks: false"),
        ({"MSD_BUNDLE": "b", "MSD_PORT": "tcp://10.0.0.1:80"}, "MSD_PORT: "),
        ({"MSD_BUNDLE": "b", "MSD_PORT": "70000"}, "MSD_PORT: "),
        ({"MSD_BUNDLE": "b", "MSD_STORE": "memory"}, "MSD_STORE: "),
        ({"MSD_BUNDLE": "b", "MSD_STORE": "redis"}, "needs MSD_REDIS_URL"),
        ({"MSD_BUNDLE": "b", "MSD_GUARD_METRICS": "1"}, "needs MSD_KEYS_FILE"),
        ({"MSD_BUNDLE": "b", "MSD_TLS_CERT": "c"}, "MSD_TLS_CERT and MSD_TLS_KEY must be set together"),
        ({"MSD_BUNDLE": "b", "MSD_TLS_CLIENT_CA": "c"}, "MSD_TLS_CLIENT_CA needs MSD_TLS_CERT"),
        ({"MSD_BUNDLE": "b", "MSD_PROVIDER": "tpu"}, "MSD_PROVIDER: "),
        ({"MSD_BUNDLE": "b", "MSD_THREADS": "0"}, "MSD_THREADS: "),
        ({"MSD_BUNDLE": "b", "MSD_DRAIN_SECONDS": "nan"}, "MSD_DRAIN_SECONDS: "),
        ({"MSD_BUNDLE": "b", "MSD_PLAYGROUND": "maybe"}, "MSD_PLAYGROUND: "),
        ({"MSD_BUNDLE": "b", "MSD_PLAYGROUND_WITHOUT": "c"}, "MSD_PLAYGROUND_WITHOUT needs MSD_PLAYGROUND=true"),
        ({"MSD_BUNDLE": "b", "MSD_DEADLINE_MS": "60001"}, "MSD_DEADLINE_MS: "),
    ],
)
def test_mistake_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environ(environ)

    assert message in str(raised.value)


@pytest.mark.parametrize(("text", "workers"), [("auto", None), ("AUTO", None), ("1", 1), ("512", 512)])
def test_workers_are_a_number_or_auto(text: str, workers: int | None) -> None:
    assert Settings.from_environ({"MSD_BUNDLE": "b", "MSD_WORKERS": text}).workers == workers


@pytest.mark.parametrize("text", ["0", "-2", "two", "1.5", "513", "", "9" * 5_000])
def test_any_other_number_of_workers_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"MSD_WORKERS: .* is neither 'auto' nor an integer from 1 to 512$"):
        Settings.from_environ({"MSD_BUNDLE": "b", "MSD_WORKERS": text})


@pytest.mark.parametrize("url", [f"http://user:{SECRET}@h/0", f"redis://:{SECRET}@h:port/0", f"redis://:{SECRET}@"])
def test_bad_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environ({"MSD_BUNDLE": "b", "MSD_REDIS_URL": url})

    assert "MSD_REDIS_URL" in str(raised.value)
    assert SECRET not in str(raised.value)


def test_settings_do_not_show_the_password() -> None:
    settings = Settings.from_environ({"MSD_BUNDLE": "b", "MSD_REDIS_URL": f"redis://user:{SECRET}@h:1/0"})

    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()


def test_address_of_redis_may_be_in_a_file(tmp_path: Path) -> None:
    place = tmp_path / "url"
    environ = {"MSD_BUNDLE": "b", "MSD_STORE": "redis", "MSD_REDIS_URL_FILE": str(place)}

    def message(**more: str) -> str:
        with pytest.raises(SettingsError) as raised:
            Settings.from_environ({**environ, **more})
        return str(raised.value)

    assert message().startswith(f"{place}: No such file or directory; MSD_REDIS_URL_FILE")
    place.write_bytes(b"\xff")
    assert message().startswith(f"{place}: not a Redis URL")
    place.write_text("http://h")
    assert message().startswith("MSD_REDIS_URL: ")
    place.write_text("x" * 20_000)
    assert message() == f"{place}: larger than 16384 bytes"
    place.write_text("redis://u:p@h:6379/0\n")
    assert message(MSD_REDIS_URL="redis://h") == "MSD_REDIS_URL and MSD_REDIS_URL_FILE are both set: set one of them"
    found = Settings.from_environ(environ).redis_url
    assert found is not None
    assert found.get_secret_value() == "redis://u:p@h:6379/0"
