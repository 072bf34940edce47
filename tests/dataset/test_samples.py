"""Samples of ad logs from a server and a wheel made here: no network is needed."""

import hashlib
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from msd.contract.files import sha256_file
from msd.contract.request import ANONYMOUS_PREFIX
from msd.dataset.load import load_dataset
from msd.dataset.problem import ArchiveError
from msd.dataset.samples import CAMPAIGNS, POLICIES, Sample, write_open_bandit, write_sample
from msd.dataset.split import Part, split_events

PARTS = {"train.csv": b"0\t1\t\n", "test.csv": b"1\t\t2\n"}


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sample]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "host").mkdir()
    for name, content in PARTS.items():
        (tmp_path / "host" / name).write_bytes(content)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "host"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        sha256 = hashlib.sha256(b"".join(PARTS.values())).hexdigest()
        yield Sample("log.tsv", f"http://127.0.0.1:{server.server_port}", tuple(PARTS), sha256)
        server.shutdown()


def test_fetches_parts_and_joins_them(tmp_path: Path, sample: Sample) -> None:
    assert write_sample(tmp_path / "out", sample)
    assert (tmp_path / "out" / "log.tsv").read_bytes() == b"0\t1\t\n1\t\t2\n"
    assert not write_sample(tmp_path / "out", sample._replace(url="http://127.0.0.1:9"))


def test_takes_downloaded_parts_in_order(tmp_path: Path, sample: Sample) -> None:
    files = [tmp_path / "host" / name for name in PARTS]
    with pytest.raises(ArchiveError, match=r"train\.csv, test\.csv: expected SHA-256 .* in this order; found"):
        write_sample(tmp_path / "out", sample, files[::-1])
    assert not (tmp_path / "out").exists()
    assert write_sample(tmp_path / "out", sample._replace(url="http://127.0.0.1:9"), files)


def test_says_how_to_do_without_a_network(tmp_path: Path, sample: Sample) -> None:
    for gone in ("http://127.0.0.1:9", f"{sample.url}/nowhere"):
        with pytest.raises(ArchiveError, match=r"log\.tsv cannot be fetched: .*\n.*pass each with --file"):
            write_sample(tmp_path / "out", sample._replace(url=gone))
    with pytest.raises(ArchiveError, match=r"cannot be fetched: .*no\.csv"):
        write_sample(tmp_path / "out", sample, [tmp_path / "no.csv"])


def test_keeps_an_existing_file(tmp_path: Path, sample: Sample) -> None:
    (tmp_path / "log.tsv").write_text("mine")
    with pytest.raises(ArchiveError, match=r"log\.tsv: expected SHA-256"):
        write_sample(tmp_path, sample)
    with pytest.raises(ArchiveError, match="is a file; name a folder"):
        write_sample(tmp_path / "log.tsv", sample._replace(name="other"))
    assert (tmp_path / "log.tsv").read_text() == "mine"


def make_wheel(folder: Path, rows: int = 200) -> Path:
    """Each policy's log has a click at every tenth row."""
    path = folder / "obp-0.4.1-py3-none-any.whl"
    features = [f"{side}_feature_{number}" for side in ("user", "item") for number in range(4)]
    with zipfile.ZipFile(path, "w") as archive:
        for campaign in CAMPAIGNS:
            for policy in POLICIES:
                names = [
                    "",
                    "timestamp",
                    "item_id",
                    "position",
                    "click",
                    "propensity_score",
                    *features[:4],
                    "affinity_0",
                ]
                lines = [
                    f"{n},2019-11-24 00:{n // 60:02}:{n % 60:02}.5+00:00,{n % 3},{n % 3 + 1},"
                    f"{n % 10 // 9},.25,a,b,c,d,0"
                    for n in range(rows)
                ]
                inside = f"obp/dataset/obd/{policy}/{campaign}"
                archive.writestr(f"{inside}/{campaign}.csv", "\n".join([",".join(names), *lines]))
                items = [f"{n},{n},{n / 2},e,f,g" for n in range(3)]
                archive.writestr(
                    f"{inside}/item_context.csv", "\n".join([",".join(["", "item_id", *features[4:]]), *items])
                )
    return path


def test_open_bandit_is_a_dataset_of_anonymous_users(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    assert write_open_bandit(tmp_path / "data", wheel, sha256_file(wheel))
    assert not write_open_bandit(tmp_path / "data", tmp_path / "no.whl", sha256_file(wheel))
    data = load_dataset(tmp_path / "data")
    assert data.events.height == 6 * 200
    assert data.events["label"].sum() == 6 * 20
    assert data.events["user_id"].str.starts_with(ANONYMOUS_PREFIX).all()
    assert data.events["user_id"].n_unique() == 6 * 200
    assert data.events["at"].min() == 1_574_553_600
    assert data.items.height == 9
    assert {"policy", "propensity"}.isdisjoint(data.events.columns)
    serving = {one.name: one.serving_value for one in data.config.side("context")}
    assert serving["position"] == "1"
    parts = split_events(data.events, data.config)
    assert np.bincount(parts).tolist() == [600, 360, 120, 120]
    assert (np.diff(parts) >= 0).all()
    assert Part.TEST == parts[-1]


def test_open_bandit_refuses_another_wheel_or_folder(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    with pytest.raises(ArchiveError, match="expected SHA-256 87dec9ca.*, found"):
        write_open_bandit(tmp_path / "data", wheel)
    with pytest.raises(ArchiveError, match="holds other things than a dataset"):
        write_open_bandit(tmp_path, wheel, sha256_file(wheel))
