"""Engines that work through a grid: threads, processes of this machine, or the workers of a Dask cluster.

A job turns a chunk of the grid into the same bytes or the same summary on any engine; only the order of
results differs. (Powers and logarithms come from the processor's math library: a different kind of worker may
round the last digit of a time at ``kernel`` and ``calibrated`` differently.)
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any, Protocol, TypeVar

import numpy as np

from costmodel.arguments import typed
from costmodel.errors import CostmodelError, UnavailableError, unknown_name
from costmodel.evaluate import as_whole
from costmodel.sweep.grid import Chunk, Grid
from costmodel.sweep.program import program

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

ENGINES = ("threads", "processes", "dask")
#: Chunks in flight per worker: one runs while another waits.
_AHEAD = 2
#: Memory to keep between boxes [B]: more than all arrays of one box.
_KEPT = 2**24
#: How often a chunk is resubmitted after its workers died, on top of Dask's own three attempts.
_PATIENCE = 3
#: Largest plausible number of threads or processes.
MOST_WORKERS = 2**16
#: Time that a cluster has to answer [s].
_CONNECT_S = 10.0


class Job(Protocol[T_co]):
    """What is done with each chunk; must be picklable."""

    def __call__(self, grid: Grid, chunk: Chunk) -> T_co:
        """Return the result for a chunk."""


@typed
@dataclass(frozen=True)
class Engine:
    """Where the work of a sweep runs.

    Attributes
    ----------
    name : {"threads", "processes", "dask"}
        Threads of this process; processes of this machine, which take a second to start and pay off for
        products at ``calibrated``, where many short steps hold Python's lock (a script that uses them needs
        ``if __name__ == "__main__"``); or the workers of a Dask cluster.
        Number of threads or local processes; default: as many as processors are available.
    cluster : str, optional
        Address of a Dask scheduler; default: a cluster on this machine, for this sweep only.
    """

    name: str = "threads"
    workers: int | None = None
    cluster: str | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises
        ------
        UnknownNameError, CostmodelError
            If the engine is unknown, or `workers` is not a number of workers.
        """
        if self.name not in ENGINES:
            raise unknown_name("engine", self.name, ENGINES)
        if self.workers is not None:
            as_whole("workers", self.workers, MOST_WORKERS)
        if self.cluster is not None and self.name != "dask":
            raise CostmodelError(
                f"a cluster's address needs the engine dask, got {self.cluster} for the engine {self.name}"
            )

    @property
    def count(self) -> int:
        """Number of threads or local processes."""
        return self.workers or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0])

    def run(self, grid: Grid, job: Job[T], chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, T]]:
        """Yield each chunk with the job's result, in the order of completion.

        Raises
        ------
        UnavailableError
            If Dask is not installed, the cluster is unreachable, its versions differ, or workers die.
        """
        if self.name == "dask":
            return _on_dask(self, grid, job, chunks)
        if self.name == "processes":
            return _in_processes(self.count, grid, job, chunks)
        _keep_memory()
        return _in_pool(ThreadPoolExecutor(self.count), self.count, partial(job, grid), chunks)


def _keep_memory() -> None:
    """Make glibc keep freed memory up to the size that a box needs.

    glibc would return it to the system, and getting it back page by page takes a fifth of the time for
    products; it keeps blocks up to the largest that was freed (mallopt(3)).
    """
    np.empty(_KEPT, np.int8)


def _in_pool(
    pool: Executor, workers: int, work: Callable[[Chunk], T], chunks: Sequence[Chunk]
) -> Iterator[tuple[Chunk, T]]:
    try:
        waiting = iter(chunks)
        running: dict[Future[T], Chunk] = {}
        while True:
            for chunk in _next(waiting, _AHEAD * workers - len(running)):
                running[pool.submit(work, chunk)] = chunk
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _next(chunks: Iterator[Chunk], count: int) -> Iterable[Chunk]:
    for _, chunk in zip(range(count), chunks, strict=False):
        yield chunk


# -- processes ---------------------------------------------------------------------------------

#: In a worker process: the grid and the job.
_TAKEN: dict[str, Any] = {}


def _take(payload: bytes) -> None:
    """Unpickle the grid and the job, once per process, and leave Ctrl-C to the parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _keep_memory()
    _TAKEN["grid"], _TAKEN["job"] = pickle.loads(payload)


def _done(chunk: Chunk) -> Any:
    return _TAKEN["job"](_TAKEN["grid"], chunk)


def _in_processes(
    workers: int, grid: Grid, job: Job[T], chunks: Sequence[Chunk]
) -> Iterator[tuple[Chunk, T]]:
    # Spawned, not forked: NumPy's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    payload = pickle.dumps((grid, job))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_take, initargs=(payload,))
    try:
        yield from _in_pool(pool, workers, _done, chunks)
    except BrokenProcessPool:
        raise UnavailableError(
            "a worker process died, or could not start; finished parts are kept: give the same command again "
            "to resume, with fewer --workers if memory was short"
        ) from None


# -- Dask --------------------------------------------------------------------------------------


def _versions() -> tuple[str, ...]:
    """Return the versions that a chunk's bytes depend on."""
    return (program(), *(metadata.version(name) for name in ("numpy", "pyarrow")))


def _loaded(payload: bytes) -> Any:
    """Unpickle the grid and the job; as a task of its own, so that a cluster can repeat it if it is lost."""
    return pickle.loads(payload)


def _worked(work: tuple[Grid, Job[T]], number: int, versions: tuple[str, ...]) -> T:
    """Run the job on one chunk, on a worker."""
    if _versions() != versions:
        raise UnavailableError(
            f"a worker has costmodel, numpy, pyarrow {', '.join(_versions())}, wanted {', '.join(versions)}: "
            "its file would differ; install the same there"
        )
    grid, job = work
    return job(grid, grid.chunks[number])


def _distributed() -> Any:
    """Import Dask's scheduler, which is an optional dependency."""
    try:
        return importlib.import_module("distributed")
    except ImportError:
        raise UnavailableError("engine dask needs Dask: pip install 'costmodel[dask]'") from None


@contextlib.contextmanager
def _client(engine: Engine) -> Iterator[Any]:
    """Connect to the cluster, or start one on this machine."""
    distributed = _distributed()
    if engine.cluster is None:
        local = distributed.LocalCluster(
            n_workers=engine.count,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        with local, distributed.Client(local) as client:
            yield client
        return
    try:
        client = distributed.Client(engine.cluster, timeout=_CONNECT_S)
    except (OSError, ValueError) as error:
        raise UnavailableError(f"no Dask cluster at {engine.cluster}: {error}") from None
    with client:
        yield client


def _on_dask(engine: Engine, grid: Grid, job: Job[T], chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, T]]:
    distributed = _distributed()
    with _client(engine) as client:
        versions, payload = _versions(), pickle.dumps((grid, job))
        # Submitted as a task, not scattered: scattered data is lost with the worker that holds it.
        work = client.submit(_loaded, payload)

        def start(chunk: Chunk) -> Any:
            future = client.submit(_worked, work, chunk.number, versions, pure=False)
            running[future] = chunk
            return future

        running: dict[Any, Chunk] = {}
        deaths: dict[int, int] = {}
        waiting = iter(chunks)
        ahead = _AHEAD * max(1, sum(client.nthreads().values()))
        done = distributed.as_completed([start(chunk) for chunk in _next(waiting, ahead)])
        for future in done:
            chunk = running.pop(future)
            try:
                result = future.result()
            except distributed.KilledWorker as error:
                deaths[chunk.number] = deaths.get(chunk.number, 0) + 1
                if deaths[chunk.number] > _PATIENCE:
                    raise UnavailableError(
                        f"workers of the cluster keep dying ({error}); finished parts are kept: "
                        "give the same command again to resume"
                    ) from None
                work = client.submit(_loaded, payload, pure=False)
                done.add(start(chunk))
                continue
            yield chunk, result
            for following in _next(waiting, 1):
                done.add(start(following))


#: Called after each chunk with the number of points done.
Progress = Callable[[int], None]
