"""Archives: the same bytes each time, and of a hostile one nothing but an error that says what it tried."""

import gzip
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.bundle import FILES, MANIFEST, RANKER, Bundle
from msd.contract.errors import BundleError
from operations.fetch.archive import BundleArchiveError, pack, unpack
from tests.operations.fetch.conftest import Archive

ROOM = 2**20


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name in FILES}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
def test_unpacks_packed_bundle(bundle: Bundle, tmp_path: Path, name: str) -> None:
    pack(bundle.folder, tmp_path / name)
    (tmp_path / "out").mkdir()
    unpack(tmp_path / name, tmp_path / "out", ROOM)

    assert _contents(tmp_path / "out") == _contents(bundle.folder)


def test_packing_is_deterministic(bundle: Bundle, archive: Archive, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(bundle.folder, copy)
    for path in copy.iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    (copy / "notes.txt").write_text("not a bundle's file")

    assert f"sha256:{pack(copy, tmp_path / 'again.tar.gz')}" == archive.digest


def test_packs_whole_bundles_only(copied_bundle: Path, tmp_path: Path) -> None:
    (copied_bundle / RANKER).write_bytes(b"")

    with pytest.raises(BundleError, match=RANKER):
        pack(copied_bundle, tmp_path / "a.tar")
    with pytest.raises(BundleArchiveError, match="must end with"):
        pack(copied_bundle, tmp_path / "a.zip")
    assert not (tmp_path / "a.tar").exists()


def _tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as tar:
        for member, content in members:
            member.size = len(content) if member.isreg() else member.size
            tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


def _member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", notes: dict[str, str] | None = None
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.pax_headers = kind, link, notes or {}
    return member


def _endless_note() -> bytes:
    return _tar((_member(MANIFEST, notes={"comment": "x" * 2**18}), b""))


def _sparse() -> bytes:
    return _tar((_member(MANIFEST, notes={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), b"1\n0\n1073741824\n"))


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "absolute": (lambda: _tar((_member(f"/{MANIFEST}"), b"x")), "not a file of a bundle"),
    "upwards": (lambda: _tar((_member(f"../{MANIFEST}"), b"x")), "not a file of a bundle"),
    "upwards later": (lambda: _tar((_member(f"a/../../{MANIFEST}"), b"x")), "not a file of a bundle"),
    "deep": (lambda: _tar((_member(f"a/b/{MANIFEST}"), b"x")), "not a file of a bundle"),
    "a folder upwards": (lambda: _tar((_member("..", tarfile.DIRTYPE), b"")), "not a file of a bundle"),
    "another name": (lambda: _tar((_member("run.sh"), b"x")), "'run.sh', which is not a file of a bundle"),
    "no name": (lambda: _tar((_member(""), b"x")), "not a file of a bundle"),
    "a symbolic link": (
        lambda: _tar((_member(MANIFEST, tarfile.SYMTYPE, "/etc/passwd"), b"")),
        "not a file of a bundle",
    ),
    "a hard link": (lambda: _tar((_member(MANIFEST, tarfile.LNKTYPE, "/etc/passwd"), b"")), "not a file of a bundle"),
    "a device": (lambda: _tar((_member(MANIFEST, tarfile.CHRTYPE), b"")), "not a file of a bundle"),
    "a pipe": (lambda: _tar((_member(MANIFEST, tarfile.FIFOTYPE), b"")), "not a file of a bundle"),
    "twice": (lambda: _tar((_member(MANIFEST), b"x"), (_member(f"a/{MANIFEST}"), b"y")), "twice"),
    "a sparse file": (_sparse, "not a file of a bundle"),
    "a sparse file without numbers": (
        lambda: _tar((_member(MANIFEST, notes={"GNU.sparse.map": "a,b"}), b"x")),
        "not a tar archive, or damaged",
    ),
    "a sparse file of old": (lambda: _tar((_member(MANIFEST, tarfile.GNUTYPE_SPARSE), b"")), "not a file of a bundle"),
    "an endless note": (_endless_note, "a header of more than 131072 bytes"),
    "a bomb": (lambda: gzip.compress(_tar((_member(RANKER), bytes(2**21)))), "more than 1048576 bytes"),
    "a bomb of folders": (
        lambda: _tar(*((_member("a", tarfile.DIRTYPE), b"") for _ in range(101))),
        "more than 100 files and folders",
    ),
    "endless notes": (lambda: _tar((_member("x" * 200), b""), form=tarfile.GNU_FORMAT)[:1024] * 999, "a header of"),
    "cut off": (lambda: _tar((_member(RANKER), bytes(9_000)))[:5_000], "not a tar archive, or damaged"),
    "cut off when packed": (lambda: gzip.compress(_tar((_member(RANKER), os.urandom(9_000))))[:5_000], "or damaged"),
    "damaged when packed": (lambda: gzip.compress(os.urandom(9_000))[:40] + b"x" * 99, "not a tar archive, or damaged"),
    "no tar": (lambda: b"<html>please log in</html>" * 99, "not a tar archive, or damaged"),
    "nothing": (lambda: b"", "not a tar archive, or damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_rejects_hostile_archive(tmp_path: Path, name: str) -> None:
    make, message = HOSTILE[name]
    (tmp_path / "a").write_bytes(make())
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)

    with pytest.raises(BundleArchiveError, match=message):
        unpack(tmp_path / "a", target, ROOM)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "deep"]
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    assert all(path.is_file() and not path.is_symlink() for path in target.iterdir())


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./", "bundle/", "./bundle/"])
def test_unpacks_archives_of_tar(tmp_path: Path, form: int, prefix: str) -> None:
    members = [(_member(prefix + "./" if prefix else "./", tarfile.DIRTYPE), b""), (_member(prefix + RANKER), b"graph")]
    members[1][0].mtime = 1.5  # which the newest of the forms writes as a note
    (tmp_path / "a").write_bytes(_tar(*members, form=form))
    (tmp_path / "out").mkdir()
    unpack(tmp_path / "a", tmp_path / "out", ROOM)

    assert (tmp_path / "out" / RANKER).read_bytes() == b"graph"


_FUZZED = _tar(*((tarfile.TarInfo(name), b"x" * 700) for name in sorted(FILES)[:3]))
# Headers have 512 bytes, of which numbers, types and link names are from the 100th on.
_PLACES = st.integers(0, len(_FUZZED) // 512 - 1).flatmap(lambda block: st.integers(512 * block, 512 * block + 511))
_TEXTS = st.sampled_from(
    [b"../x", b"/tmp/x", b"\0", b"77777777777", b"\x80" + b"\xff" * 11, b"1", b"2", b"5", b"g", b"L", b"S"]
)


@settings(max_examples=200)
@given(
    changes=st.lists(st.tuples(_PLACES, _TEXTS | st.binary(min_size=1, max_size=12)), max_size=5),
    cut=st.integers(0, 3_000),
)
def test_damaged_archives_write_nothing_elsewhere(
    changes: list[tuple[int, bytes]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzzed")
    data, out = bytearray(_FUZZED), folder / "out"
    for place, change in changes:
        data[place : place + len(change)] = change
        # With the sum that the header says, or else nothing but the sum would be tested.
        start = place // 512 * 512
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    (folder / "a.tar").write_bytes(data[: len(data) - cut])
    out.mkdir()
    with suppress(BundleArchiveError):
        unpack(folder / "a.tar", out, ROOM)

    assert {path.name for path in folder.iterdir()} == {"a.tar", "out"}
    assert all(path.is_file() and not path.is_symlink() and path.name in FILES for path in out.iterdir())
    assert sum(path.stat().st_size for path in out.iterdir()) <= ROOM
