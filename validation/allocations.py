"""Measure the memory that a call takes, as seen by torch's allocator.

On CUDA the allocator records the peak; on the CPU torch's profiler receives each allocation and release.
Memory that libraries take directly from the system (packed panels, scratchpads of oneDNN) is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from costmodel.validation.case import Case
from costmodel.validation.execute import Prepared, prepare
from costmodel.validation.torch_env import load_torch

T = TypeVar("T")


def watched(kind: str, call: Callable[[], T]) -> tuple[T, int, int]:
    """Call a function, and return its result and the memory that it took.

    Parameters
    ----------
    kind : str
        ``cpu`` or ``cuda``.
    call : callable
        The function to observe.

    Returns
    -------
    result, stayed, most : T, int, int
        Its result; the increase of occupied memory after the call; the peak increase during it [bytes].
    """
    return (_on_cuda if kind == "cuda" else _on_cpu)(load_torch(), call)


def _on_cuda(torch: Any, call: Callable[[], T]) -> tuple[T, int, int]:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = int(torch.cuda.memory_allocated())
    result = call()
    torch.cuda.synchronize()
    return (
        result,
        int(torch.cuda.memory_allocated()) - before,
        int(torch.cuda.max_memory_allocated()) - before,
    )


def _on_cpu(torch: Any, call: Callable[[], T]) -> tuple[T, int, int]:
    # torch.profiler's own class builds an object for each event when it stops: 7 s for a GRU of 1,024 steps.
    with torch.autograd.profiler.profile(profile_memory=True) as seen:
        result = call()
    held: dict[int, int] = {}
    level = most = 0
    for block, size in _blocks(torch, seen.kineto_results.experimental_event_tree()):
        if size > 0:
            held[block] = size
            level += size
        else:  # blocks allocated before the call may be released during it; they do not count
            level -= held.pop(block, 0)
        most = max(most, level)
    return result, level, most


def _blocks(torch: Any, tree: Sequence[Any]) -> list[tuple[int, int]]:
    """Return address and size [bytes] of each allocation and (negative size) release, in order."""
    allocation, found, todo = torch._C._profiler._EventType.Allocation, [], list(tree)
    while todo:
        event = todo.pop()
        todo += event.children
        if event.tag == allocation:
            found.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    return [(block, size) for _, block, size in sorted(found, key=lambda one: one[0])]


def prepare_watched(case: Case, kind: str) -> tuple[Prepared, int]:
    """Prepare a case, run it twice, and return it with its peak memory [bytes].

    The peak includes operands, and what the second run took beyond them. A library's workspace for this call
    is included. What a library keeps from its first call on, and temporary memory for making the operands,
    are not.

    Raises
    ------
    UnavailableError
        See `costmodel.validation.execute.prepare`.
    """
    prepared, operands, _ = watched(kind, lambda: prepare(case, kind))

    def once() -> None:
        with prepared.scope():
            prepared.run()

    once()
    _, _, most = watched(kind, once)
    return prepared, operands + most
