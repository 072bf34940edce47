"""A text file's encoding, and the file opened by it: UTF-8 or UTF-16 by their marks, any other if a person names it or
the text shows it."""

import codecs
import gzip
import io
import re
import shlex
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, cast

from msd.dataset.problem import Doubt

UTF_8 = "utf-8-sig"
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_BLOCK, _MOST_WORDS = 2**20, 2_000
_WORD = re.compile(rb'[^\s,;"]*[\x80-\xff][^\s,;"]*')
_WINDOWS = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "iso8859_2", "koi8_r"]
_ASIAN, _OLD = ["cp932", "euc_jp", "gb18030", "big5", "cp949"], ["cp850", "mac_roman"]
# Windows has its letters above 0xC0, DOS and classic Macs have theirs here.
_OLD_LETTER = re.compile(rb"[A-Za-z][\x80-\x91\x93-\x9f][a-z]")
_CHAOS, _COHERENCE = 0.15, 0.25  # readings that are so much worse than the best one do not count


class UnreadableError(Exception):
    """A file is unreadable; `row` is where reading ended, if known."""

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


@dataclass(frozen=True)
class Found:
    """How a person's log is read, which may be nested and in any encoding; a dataset's own files may not.

    `encoding`: a name that Python knows; found out if None. `notes`: what reading has found, for people.
    """

    encoding: str | None = None
    notes: list[str] = field(default_factory=list)

    def note(self, said: str) -> None:
        """Note what holds for all files of a folder once."""
        if said not in self.notes:
            self.notes.append(said)


@contextmanager
def open_text(path: Path, encoding: str = UTF_8) -> Iterator[TextIO]:
    """Open the file as text, decompressed if necessary. Raises UnreadableError if it is not readable text."""
    with _open(path) as binary:
        used = encoding
        try:
            mark = binary.peek(3)[:3]
            used = "utf-16" if mark[:2] in UTF_16_MARKS else UTF_8 if mark == codecs.BOM_UTF8 else encoding
            yield io.TextIOWrapper(binary, encoding=used, newline="")
        except UnicodeError as error:
            odd = f" (a byte is {error.object[error.start]:#x})" if isinstance(error, UnicodeDecodeError) else ""
            raise UnreadableError(
                f"is not text in {used.removesuffix('-sig').upper()}{odd}: save it as UTF-8, as "
                f"`iconv -f ENCODING -t UTF-8 {shlex.quote(path.name)} > new` does"
            ) from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UnreadableError(f"cannot be unpacked by gzip, it is damaged or cut short: {error}") from None


def encoding_of(path: Path, found: Found) -> str:
    """Return a text file's encoding: the given one, or what its bytes show. Raises Doubt if they leave several."""
    if found.encoding:
        return found.encoding
    words, start, is_utf_8, row = dict[bytes, None](), b"", True, 0
    with _open(path) as binary:
        try:
            while block := binary.read(_BLOCK):
                block += binary.readline()
                start = start or block
                if start[:2] in UTF_16_MARKS:
                    return UTF_8
                if is_utf_8 and not block.isascii():
                    try:
                        block.decode()
                    except UnicodeDecodeError as error:
                        is_utf_8, row = False, row + block.count(b"\n", 0, error.start)
                row += block.count(b"\n") * is_utf_8
                if not is_utf_8 and len(words) < _MOST_WORDS:
                    words |= dict.fromkeys(_WORD.findall(block))
        except (gzip.BadGzipFile, EOFError, zlib.error):
            return UTF_8  # reading says in which row the file ends
    if wide := _utf_16(start):
        found.note(f"read as {wide.upper()}, by the bytes of zero")
        return wide
    return UTF_8 if is_utf_8 else _guessed(path, b"\n".join(words), row, found)


@contextmanager
def _open(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file's bytes, decompressed if its name ends in .gz. Raises UnreadableError if its first bytes show another
    format."""
    start = start_of(path)
    packed = path.suffix == ".gz"
    if packed and start and not start.startswith(_GZIP):
        raise UnreadableError("is not compressed by gzip, though its name ends in .gz: rename it, or compress it")
    if not packed and start.startswith(_GZIP):
        raise UnreadableError("is compressed by gzip: let its name end in .gz")
    if start == _ZIP:
        raise UnreadableError("is a spreadsheet or an archive (zip) by its first bytes: save it as CSV in UTF-8")
    with gzip.open(path) if packed else path.open("rb") as binary:
        yield cast(io.BufferedReader, binary)


def start_of(path: Path) -> bytes:
    """Return a file's first four bytes. Raises UnreadableError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from None


def in_utf_8(path: Path) -> Path:
    """Return a path that Polars can read. Raises UnreadableError for another."""
    start_of(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UnreadableError("its path is not in UTF-8: rename its folder") from None
    return path


def _utf_16(start: bytes) -> str | None:
    """Return UTF-16's name if about every second byte is zero, as in Western text; UTF-8 has hardly any."""
    for name, zeros in (("utf-16-le", start[1:4_000:2]), ("utf-16-be", start[:4_000:2])):
        if zeros and zeros.count(0) > 0.8 * len(zeros):
            return name
    return None


def _is_utf_8(word: bytes) -> bool:
    try:
        word.decode()
    except UnicodeDecodeError:
        return False
    return True


def _guessed(path: Path, words: bytes, row: int, found: Found) -> str:
    """Return the encoding in which words that are not ASCII read best. Raises Doubt unless all that read well agree."""
    from charset_normalizer import from_bytes

    if 2 * sum(_is_utf_8(word) for word in words.split(b"\n")) > words.count(b"\n"):
        raise UnreadableError("holds a byte that is not UTF-8, while other rows are: mend it", row)
    known = [*_WINDOWS, *_ASIAN, *(_OLD if _OLD_LETTER.search(words) else ())]
    read = list(from_bytes(words, cp_isolation=known))
    good = [
        one for one in read if one.chaos <= read[0].chaos + _CHAOS and one.coherence >= read[0].coherence - _COHERENCE
    ]
    ways: dict[str, str] = {}
    for one in good:
        ways[min(one.could_be_from_charset, key=known.index)] = str(one)
    ways = dict(sorted(ways.items(), key=lambda way: known.index(way[0]))) or {
        "cp1252": words.decode("cp1252", "replace")
    }
    if len(good) == 1:
        ((name, text),) = ways.items()
        shown = ", ".join(text.split("\n")[:3])
        if not any(f"read as {name}," in said for said in found.notes):
            found.note(f"read as {name}, which makes words such as {shown}; else --encoding NAME")
        return name
    ways = {name: text.partition("\n")[0] for name, text in ways.items()}
    told = " or ".join(f"{text!r} ({name})" for name, text in list(ways.items())[:4])
    raise Doubt(
        f"{path}, row {row}: is not text in UTF-8, and may hold {told}",
        "encoding",
        ways,
        f"or convert it: iconv -f {next(iter(ways)).upper()} -t UTF-8 {shlex.quote(path.name)} > new",
    )
