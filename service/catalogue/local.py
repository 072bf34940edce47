"""Parts made on this machine, by some processes. One that was interrupted goes on with the parts that are missing."""

import os
import signal
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from threading import Thread

from service.catalogue.errors import CatalogueError
from service.catalogue.part import Job, Made, make_part


def make_here(jobs: Sequence[Job], processes: int) -> Generator[Made, None, None]:
    """The parts, as they are made. After the first error no other part is begun."""
    if min(processes, len(jobs)) <= 1:
        yield from map(make_part, jobs)
        return
    others = active_children()
    # Not forked: a library that has threads does not survive it.
    pool = ProcessPoolExecutor(min(processes, len(jobs)), mp_context=get_context("spawn"), initializer=_end_with_others)
    try:
        for future in as_completed([pool.submit(make_part, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool:
        raise CatalogueError(
            "a process ended before its part was made; was there too little memory? Run this again, with fewer"
            " --processes perhaps: it goes on"
        ) from None
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        # Nobody waits for the parts under way.
        for process in active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_others() -> None:
    """Silently on an interrupt, which all processes of a terminal get, and the first of them says so. And with the
    first, which may be killed: else this one would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    Thread(target=_end_after_parent, daemon=True).start()


def _end_after_parent() -> None:
    parent = parent_process()
    assert parent is not None, "a process of the pool was started by another"
    parent.join()
    os._exit(1)
