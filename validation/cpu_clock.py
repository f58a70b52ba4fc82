"""Measure a processor's actual clock by timing a loop of one cycle per iteration.

Counting down to zero is a chain of subtractions of one cycle each on every x86-64 and Arm core since 2006.
Virtual machines report the nominal clock instead of the actual one.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
import time

#: Machine code of ``void f(long n) { while (--n); }`` by architecture, System V calling convention.
_LOOPS = {
    "x86_64": bytes.fromhex("4889f848ffc875fbc3"),  # mov rax, rdi; dec rax; jnz; ret
    "aarch64": bytes.fromhex("000400f1e1ffff54c0035fd6"),  # subs x0, x0, #1; b.ne; ret
}
_TURNS = 2_000_000


def clock_hz(tries: int) -> float | None:
    """Return the highest clock seen over short loops on one core [Hz].

    The highest is used because interruptions only make a loop slower. None if there is no loop for this
    architecture, or if the system forbids writable and executable memory.
    """
    code = _LOOPS.get(platform.machine())
    if code is None or not sys.platform.startswith("linux"):
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except (OSError, ValueError):
        return None
    page.write(code)
    place = ctypes.c_char.from_buffer(page)
    loop = ctypes.CFUNCTYPE(None, ctypes.c_long)(ctypes.addressof(place))
    best = 0.0
    for _ in range(tries):
        begin = time.perf_counter()
        loop(_TURNS)
        best = max(best, _TURNS / (time.perf_counter() - begin))
    del loop, place
    page.close()
    return best
