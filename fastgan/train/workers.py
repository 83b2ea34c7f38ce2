"""Work on many files at once, in threads: Pillow, zlib and the disk let each other run while they work."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

T = TypeVar("T")

CHUNK = 16  # a file's work is short: handing over each alone would cost as much
MOST = 16  # threads: what is done in Python, between the decoders' work, they do one at a time


def in_order(work: Callable[[int], T], count: int) -> Iterator[T]:
    """work(0), work(1), ..., work(count - 1), by as many threads as this process has CPUs, at most 16.

    What the first of them in this order raises, or an interruption, ends the others before their next file.
    """
    stop = Event()

    def chunk(start: int) -> list[T]:
        return [work(i) for i in range(start, min(start + CHUNK, count)) if not stop.is_set()]

    with ThreadPoolExecutor(min(MOST, len(os.sched_getaffinity(0)))) as pool:
        try:
            for results in pool.map(chunk, range(0, count, CHUNK)):
                yield from results
        finally:
            stop.set()
