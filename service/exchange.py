"""What the workers of one service pass to each other: waiting requests, which any may take, and what came of one.

A waiting request is a message on one socket that all read, so that exactly one gets it. Whether it is still wanted, and
who has it, stands in memory that all share: each cell has one writer at a time. Does not know what requests say.
"""

import mmap
import os
import socket
import struct
import tempfile
from collections.abc import Sequence
from typing import NamedTuple, Self

ROW_CELLS = 1_024
_CELL_BYTES = 8
PLACES = 256
"""Requests of one worker that may wait for any, at a time."""
_WANTED, _HELD, _HOLDER, _NUMBER = 0, PLACES, 2 * PLACES, ROW_CELLS - 1
_TICKET = struct.Struct("<HHQqdddBH")
_OUTCOME = struct.Struct("<QHdIH")
_IS_DIRECT, _IS_KEPT, _HAS_FILE = 1, 2, 4
_BUFFER_BYTES = 4 * 2**20
_LARGE_BYTES = 32_768
_READ_BYTES = 2 * _LARGE_BYTES
_MOST_FILES = 3
_NOBODY = -1


class Ticket(NamedTuple):
    """A waiting request: whose it is, in which place of theirs and under which number; what is asked, and until when.

    `client` and `owner` are descriptors: of the connection that it came over, and of where to tell what came of it.
    """

    row: int
    place: int
    number: int
    generation: int
    deadline: float
    offered_at: float
    began: float
    is_direct: bool
    """Whether the reply may be written to `client`, instead of going back."""
    is_kept: bool
    """Whether the connection outlives the reply."""
    request_id: str
    body: bytes
    client: int
    owner: int

    def close(self) -> None:
        """Lets go of the descriptors."""
        os.close(self.client)
        os.close(self.owner)


class Outcome(NamedTuple):
    """What came of a ticket: the status of the reply, 0 where its owner has to see to it; what of the reply is still to
    be written; and what the log tells."""

    number: int
    status: int
    ended: float
    candidates: int
    notes: bytes
    rest: bytes


class SharedNumbers:
    """`1 + slots` rows of `ROW_CELLS` doubles in memory that has no name: it goes when the last process does."""

    def __init__(self, file_descriptor: int, slots: int) -> None:
        """Maps what `create` made, in this process or in the one that started it."""
        self.file_descriptor = file_descriptor
        self.slots = slots
        row_bytes = ROW_CELLS * _CELL_BYTES
        cells = memoryview(mmap.mmap(file_descriptor, (1 + slots) * row_bytes)).cast("d")
        self.rows = [cells[row * ROW_CELLS : (row + 1) * ROW_CELLS] for row in range(1 + slots)]
        """The supervisor's row, then those of the slots 1, 2, …; a slot keeps its row when its worker is replaced."""

    @classmethod
    def create(cls, slots: int) -> "SharedNumbers":
        """Rows of zeros."""
        size = (1 + slots) * ROW_CELLS * _CELL_BYTES
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("msd-numbers")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, size)
        return cls(descriptor, slots)


class Exchange:
    """The socket and the memory, made by the supervisor and inherited by all workers."""

    def __init__(self, descriptors: Sequence[int], slots: int) -> None:
        """Takes the descriptors over that `create` made, or those inherited of them."""
        self.descriptors = reads, writes, memory = tuple(descriptors)
        self._reads, self._writes = socket.socket(fileno=reads), socket.socket(fileno=writes)
        for one in (self._reads, self._writes):
            one.setblocking(False)
        self._writes.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._rows = SharedNumbers(memory, slots).rows

    @classmethod
    def create(cls, slots: int) -> Self | None:
        """None where the system has not what it takes."""
        if not hasattr(os, "memfd_create"):
            return None
        reads, writes = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls((reads.detach(), writes.detach(), SharedNumbers.create(slots).file_descriptor), slots)

    def close(self) -> None:
        """Lets go of it; what others have of it lasts."""
        self._reads.close()
        self._writes.close()
        os.close(self.descriptors[2])

    @property
    def reads(self) -> int:
        """Readable when there are tickets."""
        return self.descriptors[0]

    # Of the owner

    def begin(self, row: int) -> None:
        """A worker begins in a slot: what its predecessor offered is wanted no more."""
        for place in range(PLACES):
            self._rows[row][_WANTED + place] = 0.0

    def next_number(self, row: int) -> int:
        """Numbers go on over the workers of a slot."""
        cells = self._rows[row]
        cells[_NUMBER] += 1.0
        return int(cells[_NUMBER])

    def offer(self, ticket: Ticket) -> bool:
        """Lets any worker take it; False when there is no room for it now."""
        self._rows[ticket.row][_WANTED + ticket.place] = ticket.number
        request_id = ticket.request_id.encode()
        is_large = len(ticket.body) > _LARGE_BYTES
        flags = ticket.is_direct * _IS_DIRECT | ticket.is_kept * _IS_KEPT | is_large * _HAS_FILE
        head = _TICKET.pack(*ticket[:7], flags, len(request_id))
        try:
            _send(self._writes, [head, request_id], ticket.body, [ticket.client, ticket.owner])
        except OSError:
            self._rows[ticket.row][_WANTED + ticket.place] = 0.0
            return False
        return True

    def withdraw(self, row: int, place: int, number: int) -> bool:
        """From now on nobody answers it but its owner; False if somebody is just doing so."""
        cells = self._rows[row]
        cells[_WANTED + place] = 0.0
        return cells[_HELD + place] != -number

    def holder(self, row: int, place: int, number: int) -> int:
        """The process that has taken it, 0 if none has yet."""
        cells = self._rows[row]
        return int(cells[_HOLDER + place]) if abs(cells[_HELD + place]) == number else 0

    # Of whoever takes it

    def receive(self) -> Ticket | None:
        """The ticket that waits longest, if any does."""
        try:
            data, files, _, _ = socket.recv_fds(self._reads, _READ_BYTES, _MOST_FILES)
        except OSError:
            return None
        row, place, number, generation, deadline, offered_at, began, flags, length = _TICKET.unpack_from(data)
        if len(files) != (3 if flags & _HAS_FILE else 2):  # as many open files as the process may have
            for file in files:
                os.close(file)
            self._rows[row][_HOLDER + place] = _NOBODY
            self._rows[row][_HELD + place] = number
            return None
        end = _TICKET.size + length
        return Ticket(
            row=row,
            place=place,
            number=number,
            generation=generation,
            deadline=deadline,
            offered_at=offered_at,
            began=began,
            is_direct=bool(flags & _IS_DIRECT),
            is_kept=bool(flags & _IS_KEPT),
            request_id=data[_TICKET.size : end].decode(),
            body=_read(files[2]) if flags & _HAS_FILE else data[end:],
            client=files[0],
            owner=files[1],
        )

    def is_wanted(self, ticket: Ticket) -> bool:
        """Whether its owner still waits for what comes of it."""
        return self._rows[ticket.row][_WANTED + ticket.place] == ticket.number

    def hold(self, ticket: Ticket, process: int) -> None:
        """Says who has it."""
        cells = self._rows[ticket.row]
        cells[_HOLDER + ticket.place] = process
        cells[_HELD + ticket.place] = ticket.number

    def may_write(self, ticket: Ticket) -> bool:
        """Announces that the reply is being written; False if the owner was faster to withdraw the ticket.

        Owner and holder each say first what they do, and then look what the other does.
        """
        self._rows[ticket.row][_HELD + ticket.place] = -ticket.number
        return self.is_wanted(ticket)


def tell(owner: int, outcome: Outcome) -> None:
    """Tells a ticket's owner what came of it; an owner that is gone, or hears nothing, is not waited for."""
    head = _OUTCOME.pack(*outcome[:4], len(outcome.notes))
    with socket.socket(fileno=os.dup(owner)) as end:
        try:
            _send(end, [head, outcome.notes], outcome.rest, [])
        except OSError:
            return


def hear(end: socket.socket) -> Outcome | None:
    """The next outcome, if there is one."""
    try:
        data, files, _, _ = socket.recv_fds(end, _READ_BYTES, 1)
    except OSError:
        return None
    number, status, ended, candidates, length = _OUTCOME.unpack_from(data)
    end_of_notes = _OUTCOME.size + length
    rest = _read(files[0]) if files else data[end_of_notes:]
    return Outcome(number, status, ended, candidates, data[_OUTCOME.size : end_of_notes], rest)


def _send(end: socket.socket, head: list[bytes], payload: bytes, files: list[int]) -> None:
    """Raises OSError. What is large goes as a file, because a message has to fit into the socket's memory."""
    if len(payload) <= _LARGE_BYTES:
        socket.send_fds(end, [*head, payload], files)
        return
    file = os.memfd_create("msd-payload")
    try:
        with os.fdopen(os.dup(file), "wb") as writer:
            writer.write(payload)
        socket.send_fds(end, head, [*files, file])
    finally:
        os.close(file)


def _read(file: int) -> bytes:
    with os.fdopen(file, "rb") as reader:
        reader.seek(0)
        return reader.read()
