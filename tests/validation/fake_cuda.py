"""torch with a CUDA device that is the CPU: run the host code of a GPU machine without a GPU.

Operands requested on ``cuda`` are made on the CPU, events read the clock, and a graph records that it was
captured and replayed. This tests the order of calls, not kernels. What CUDA refuses during a capture is
refused with CUDA's messages.
"""

import contextlib
import time
import types

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: Functions of torch that take a device.
MAKERS = ("randn", "zeros", "ones", "full", "Generator")


aten = torch.ops.aten
#: Operations for which the host waits.
WAITS = (aten.item, aten._local_scalar_dense, aten.nonzero, aten.masked_select)


class Capture(TorchDispatchMode):
    """Refuse what a graph cannot hold: operations that the host waits
    for, and draws from a separate generator.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.overloadpacket in WAITS or kwargs.get("generator") is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return function(*args, **kwargs)


class Event:
    def __init__(self, enable_timing=False):
        assert enable_timing, "an event that is read has to be made for it"
        self.at, self.over = None, False

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        assert self.at is not None
        self.over = True

    def elapsed_time(self, other):
        assert other.over, "an event was read that may not have happened yet"
        return (other.at - self.at) * 1e3


class Graph:
    def __init__(self, cuda):
        self.cuda, self.captured = cuda, False

    def replay(self):
        assert self.captured, "a replay of what was not captured"
        assert not self.cuda.capturing, "a replay inside a capture"
        self.cuda.replayed += 1


class Stream:
    def wait_stream(self, other):
        pass

    def synchronize(self):
        pass


class Cuda:
    """The part of ``torch.cuda`` that measuring uses; anything else is an error."""

    Event, Stream = Event, Stream

    def __init__(self):
        self.captured = self.replayed = self.emptied = 0
        self.capturing = False
        self.allocated, self.peak = 1000, 1000
        self.underway = []  # pools that the allocator believes a capture is using
        self.released = []
        self.broken = ""
        self.available = True

    def is_available(self):
        return self.available

    def get_device_properties(self, _):
        return types.SimpleNamespace(
            name="NVIDIA H200", multi_processor_count=132, total_memory=2**30, L2_cache_size=2**20,
            major=9, minor=0,
        )  # fmt: skip

    def synchronize(self):
        if self.capturing:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        if self.broken:
            raise RuntimeError(self.broken)

    def current_stream(self):
        return Stream()

    def stream(self, _):
        return contextlib.nullcontext()

    def CUDAGraph(self):
        return Graph(self)

    def current_device(self):
        return 0

    def graph_pool_handle(self):
        return (0, self.captured + len(self.released) + 1)

    @contextlib.contextmanager
    def graph(self, graph, pool, stream):
        self.synchronize()
        self.empty_cache()
        self.capturing = True
        self.underway.append(pool)
        try:
            with Capture():
                yield
        except RuntimeError as error:
            # torch ends the capture on the way out, and the error of that replaces the original one.
            if str(error).startswith("CUDA error"):
                # Its allocator is not informed (torch 2.11, pytorch/pytorch#180395).
                text = "CUDA error: operation failed due to a previous error during capture"
                raise RuntimeError(text)  # noqa: B904 - as torch does it
            self.end_allocate(0, pool)
            raise
        finally:
            self.capturing = False
        self.end_allocate(0, pool)
        graph.captured = True
        self.captured += 1

    def memory_allocated(self):
        return self.allocated

    def max_memory_allocated(self):
        return self.peak

    def reset_peak_memory_stats(self):
        self.peak = self.allocated

    def end_allocate(self, _, pool):
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

    def release(self, _, pool):
        self.released.append(pool)

    def empty_cache(self):
        if self.underway:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")
        self.emptied += 1

    def clock_rate(self):
        return 1980  # MHz

    def temperature(self):
        raise ModuleNotFoundError("pynvml does not seem to be installed")

    def power_draw(self):
        return 350_000  # mW


class Torch(types.ModuleType):
    """The torch module with ``cuda`` replaced."""

    def __init__(self):
        super().__init__("torch")
        self.cuda = Cuda()
        self.version = types.SimpleNamespace(cuda="13.0")
        self._C = types.SimpleNamespace(
            _cuda_endAllocateToPool=self.cuda.end_allocate, _cuda_releasePool=self.cuda.release
        )

    def __getattr__(self, name):
        value = getattr(torch, name)
        if name not in MAKERS:
            return value

        def made(*sizes, device="cpu", **more):
            return value(*sizes, device="cpu" if device == "cuda" else device, **more)

        return made
