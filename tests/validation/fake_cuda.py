"""Torch with a CUDA device that is the CPU: what the host does on a GPU machine, run without one.

Operands that are asked for on ``cuda`` are made on the CPU; events read the clock; a graph remembers that
it was captured and replayed. It says nothing about kernels, and everything about the order of calls.
"""

import contextlib
import time
import types

import torch

#: Made on a device, by name.
MAKERS = ("randn", "zeros", "ones", "full", "Generator")


class Event:
    def __init__(self, enable_timing=False):
        assert enable_timing, "an event that is read has to be made for it"
        self.at = None

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        assert self.at is not None

    def elapsed_time(self, other):
        return (other.at - self.at) * 1e3


class Stream:
    def wait_stream(self, other):
        pass

    def synchronize(self):
        pass


class Cuda:
    """What of ``torch.cuda`` measuring uses; anything else is an error."""

    Event, Stream = Event, Stream

    def __init__(self):
        self.captured = self.replayed = self.synchronized = self.emptied = 0
        self.capturing = False
        self.allocated, self.peak = 1000, 1000
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
        self.synchronized += 1
        assert not self.capturing, "a synchronisation inside a capture"
        if self.broken:
            raise RuntimeError(self.broken)

    def current_stream(self):
        return Stream()

    def stream(self, _):
        return contextlib.nullcontext()

    def CUDAGraph(self):
        return types.SimpleNamespace(replay=self._replay)

    @contextlib.contextmanager
    def graph(self, _, stream):
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False
        self.captured += 1

    def _replay(self):
        assert self.captured, "a replay of what was not captured"
        self.replayed += 1

    def memory_allocated(self):
        return self.allocated

    def max_memory_allocated(self):
        return self.peak

    def reset_peak_memory_stats(self):
        self.peak = self.allocated

    def empty_cache(self):
        self.emptied += 1

    def clock_rate(self):
        return 1980  # MHz

    def temperature(self):
        raise ModuleNotFoundError("pynvml does not seem to be installed")

    def power_draw(self):
        return 350_000  # mW


class Torch(types.ModuleType):
    """The module, its ``cuda`` replaced."""

    def __init__(self):
        super().__init__("torch")
        self.cuda = Cuda()
        self.version = types.SimpleNamespace(cuda="13.0")

    def __getattr__(self, name):
        value = getattr(torch, name)
        if name not in MAKERS:
            return value

        def made(*sizes, device="cpu", **more):
            return value(*sizes, device="cpu" if device == "cuda" else device, **more)

        return made
