"""A text file's content in UTF-8: its encoding by a byte order mark, by a person's word, or as its letters show."""

import codecs
import gzip
import re
import shlex
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from msd.dataset.problem import Doubt, InitError

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
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


def read_utf_8(path: Path, found: Found | None = None) -> bytes:
    """Return a text file's content in UTF-8, unpacked, without a byte order mark. Raises UnreadableError; Doubt if
    `found` leaves the encoding open and the letters have several readings."""
    content = _unpacked(path)
    if content.startswith(codecs.BOM_UTF8):
        content, encoding = content.removeprefix(codecs.BOM_UTF8), "utf-8"
    else:
        encoding = "utf-16" if content[:2] in _UTF_16_MARKS else _encoding(path, content, found) if found else "utf-8"
    try:
        text = content.decode(encoding)
    except LookupError:
        raise InitError(f"--encoding {encoding}: is unknown; such as latin-1, cp1252, utf-16 are known") from None
    except UnicodeDecodeError as error:
        raise UnreadableError(
            f"is not text in {encoding.upper()} (a byte is {error.object[error.start]:#x}): save it as UTF-8, as "
            f"`iconv -f ENCODING -t UTF-8 {shlex.quote(path.name)} > new` does",
            _row(content, error.start),
        ) from None
    return content if encoding == "utf-8" else text.encode()


def _unpacked(path: Path) -> bytes:
    """Return a file's bytes, decompressed if its name ends in .gz."""
    packed, content = path.suffix == ".gz", bytearray()
    with path.open("rb") as file:
        start = file.read(4)
    if packed and start and not start.startswith(_GZIP):
        raise UnreadableError("is not compressed by gzip, though its name ends in .gz: rename it, or compress it")
    if not packed and start.startswith(_GZIP):
        raise UnreadableError("is compressed by gzip: let its name end in .gz")
    if start == _ZIP:
        raise UnreadableError("is a spreadsheet or an archive (zip) by its first bytes: save it as CSV in UTF-8")
    if not packed:
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            while block := file.read1(_BLOCK):
                content += block
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        fault = f"cannot be unpacked by gzip, it is damaged or cut short: {error}"
        raise UnreadableError(fault, _row(content, len(content))) from None
    return bytes(content)


def _row(content: bytes | bytearray, place: int) -> int | None:
    """Return the row of data at a place, below a header."""
    return content.count(b"\n", 0, place) or None


def _encoding(path: Path, content: bytes, found: Found) -> str:
    """Return the encoding of a person's file without a mark: the given one, or what its bytes show."""
    if found.encoding:
        return found.encoding
    for name, zeros in (("utf-16-le", content[1:4_000:2]), ("utf-16-be", content[:4_000:2])):
        # Western text has a zero in about every second byte of UTF-16; UTF-8 has hardly any.
        if zeros and zeros.count(0) > 0.8 * len(zeros):
            found.note(f"read as {name.upper()}, by the bytes of zero")
            return name
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return _guessed(path, content, error.start, found)
    return "utf-8"


def _guessed(path: Path, content: bytes, place: int, found: Found) -> str:
    """Return the encoding in which words that are not ASCII read best. Raises Doubt unless all that read well agree."""
    from charset_normalizer import from_bytes

    distinct = dict[bytes, None]()
    for match in _WORD.finditer(content):
        distinct[match[0]] = None
        if len(distinct) == _MOST_WORDS:
            break
    if 2 * sum(map(_is_utf_8, distinct)) > len(distinct):
        raise UnreadableError("holds a byte that is not UTF-8, while other rows are: mend it", _row(content, place))
    words = b"\n".join(distinct)
    known = [*_WINDOWS, *_ASIAN, *(_OLD if _OLD_LETTER.search(words) else ())]
    read = list(from_bytes(words, cp_isolation=known))
    good = [
        one for one in read if one.chaos <= read[0].chaos + _CHAOS and one.coherence >= read[0].coherence - _COHERENCE
    ]
    ways = {min(one.could_be_from_charset, key=known.index): str(one) for one in good}
    if len(good) == 1:
        ((name, text),) = ways.items()
        if not any(f"read as {name}," in said for said in found.notes):
            shown = ", ".join(text.split("\n")[:3])
            found.note(f"read as {name}, which makes words such as {shown}; else --encoding NAME")
        return name
    names = sorted(ways, key=known.index) or ["cp1252"]
    choices = {name: ways.get(name, words.decode("cp1252", "replace")).partition("\n")[0] for name in names}
    told = " or ".join(f"{text!r} ({name})" for name, text in list(choices.items())[:4])
    raise Doubt(
        f"{path}, row {_row(content, place) or 0}: is not text in UTF-8, and may hold {told}",
        "encoding",
        choices,
        f", or convert it: iconv -f {names[0].upper()} -t UTF-8 {shlex.quote(path.name)} > new",
    )


def _is_utf_8(word: bytes) -> bool:
    try:
        word.decode()
    except UnicodeDecodeError:
        return False
    return True
