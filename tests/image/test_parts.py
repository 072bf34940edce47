"""The parts that are tried inside an image work here, where the packages are whole: what fails there was taken out."""

from pathlib import Path

import pytest

from image import parts
from msd.contract.bundle import Bundle
from tests.bundles.factory import build_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small one."""
    return build_bundle(tmp_path_factory.mktemp("bundles") / "plain")


def test_every_part_is_used(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "BUNDLE", bundle.folder)

    assert parts.used() == ["live", "log", "encode", "sign", "trace", "openvino"]


def test_what_is_broken_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ranker.onnx").write_bytes(b"no graph")
    monkeypatch.setattr(parts, "BUNDLE", tmp_path)

    with pytest.raises(RuntimeError):
        parts.openvino()
