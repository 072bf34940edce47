"""Parts made on this machine, by some processes. One that was interrupted goes on with the parts that are missing."""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from service.catalogue.errors import CatalogueError
from service.catalogue.part import Job, Made, make_part


def make_here(jobs: Sequence[Job], processes: int) -> Iterator[Made]:
    """The parts, as they are made. After the first error no other part is begun."""
    if min(processes, len(jobs)) <= 1:
        yield from map(make_part, jobs)
        return
    # Not forked: a library that has threads does not survive it.
    pool = ProcessPoolExecutor(min(processes, len(jobs)), mp_context=get_context("spawn"), initializer=_end_silently)
    try:
        for future in as_completed([pool.submit(make_part, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool:
        raise CatalogueError(
            "a process ended before its part was made; was there too little memory? Run this again, with fewer"
            " --processes perhaps: it goes on"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_silently() -> None:
    """On an interrupt, which all processes of a terminal get; the first of them says so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
