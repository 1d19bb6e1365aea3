"""The one place that sets the size of every thread pool."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

POOLS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "BLOSC_NTHREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)

_count = 1


def count() -> int:
    """Return how many threads a function of this package may use at once: what `set_threads` was told, 1 before."""
    return _count


def set_threads(threads: int) -> None:
    """Give every library that was or will be imported `threads` threads.

    Call it before the first import of numpy, torch or SimpleITK: the environment reaches those that come later;
    those already imported are told directly.
    """
    import sys

    global _count
    _count = threads
    for pool in POOLS:
        # Numba reads its variable again at every compilation and refuses another number than the one it began with.
        if pool != "NUMBA_NUM_THREADS" or "numba" not in sys.modules:
            os.environ[pool] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "SimpleITK" in sys.modules:
        sys.modules["SimpleITK"].ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    if "numba" in sys.modules:
        sys.modules["numba"].set_num_threads(min(threads, sys.modules["numba"].config.NUMBA_NUM_THREADS))
    if "dask" in sys.modules:
        sys.modules["dask"].config.set(scheduler="threads", num_workers=threads)
    if "numpy" in sys.modules:
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads)


@contextmanager
def one_itk_thread() -> Iterator[None]:
    """Have the filters that ITK makes meanwhile use one thread; those inside another filter do not hear what that one was told."""
    from SimpleITK import ProcessObject

    before = ProcessObject.GetGlobalDefaultNumberOfThreads()
    ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, however that ends (Linux; elsewhere nothing)."""
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return
    pr_set_pdeathsig = 1
    prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
