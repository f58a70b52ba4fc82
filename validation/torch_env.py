"""The only place that imports torch: on first use, with a one-line error if it is missing."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from costmodel._version import __version__
from costmodel.errors import UnavailableError, unknown_name

DEVICES = ("cpu", "cuda")
#: Assumed size of a cache that the system does not report [bytes].
_UNKNOWN_CACHE = 64 * 2**20
#: Our names of formats → torch's. tf32 means fp32 tensors multiplied by tensor cores.
TORCH_DTYPES = {
    "fp64": "float64",
    "fp32": "float32",
    "tf32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8": "float8_e4m3fn",
}


def load_torch() -> Any:
    """Return the module ``torch``.

    Raises
    ------
    UnavailableError
        If it is not installed; the message names the extra that provides it.
    """
    # Keeps the profiler, which observes memory, from logging to standard error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise UnavailableError(
            f"measuring needs torch, which cannot be imported ({error}): pip install 'costmodel[validation]'"
        ) from None


@dataclass(frozen=True)
class Machine:
    """The device that kernels run on, and the software that affects their speed.

    Attributes
    ----------
    kind : str
        ``cpu`` or ``cuda``.
    title : str
        Name given by the device or its operating system.
    units : int
        Threads that torch uses (CPU), multiprocessors (CUDA).
    memory_bytes, cache_bytes : int
        Main memory, and last-level cache [bytes]; 0 where not known.
    capability : str
        ``AVX2``, ``9.0``, …
    driver, runtime, torch, costmodel : str
        Versions; ``runtime`` is that of CUDA and cuDNN, or of the BLAS.
    host : str
        Operating system, processor and Python.
    """

    kind: str
    title: str
    units: int
    memory_bytes: int
    cache_bytes: int
    capability: str
    driver: str
    runtime: str
    torch: str
    costmodel: str
    host: str

    @property
    def cache_at_most(self) -> int:
        """Size of the last-level cache [bytes]; an upper estimate if the system does not report it."""
        return self.cache_bytes or _UNKNOWN_CACHE

    @property
    def identity(self) -> dict[str, Any]:
        """Facts that have to be equal for two campaigns' rows to be combined in one table."""
        kept = ("kind", "title", "units", "capability", "driver", "runtime", "torch", "costmodel")
        return {name: value for name, value in asdict(self).items() if name in kept}


def machine(kind: str = "cpu") -> Machine:
    """Return the facts of this machine's device of a kind.

    Raises
    ------
    UnknownNameError
        If there is no such kind.
    UnavailableError
        If torch is not installed, or CUDA is asked for but not available.
    """
    if kind not in DEVICES:
        raise unknown_name("kind of device", kind, DEVICES)
    torch = load_torch()
    host = f"{platform.system()} {platform.machine()}, {_cpu_title()}, Python {platform.python_version()}"
    if kind == "cpu":
        return Machine(
            kind="cpu",
            title=_cpu_title(),
            units=torch.get_num_threads(),
            memory_bytes=_cpu_memory(),
            cache_bytes=_cpu_cache(),
            capability=str(torch.backends.cpu.get_cpu_capability()),
            driver="",
            runtime="MKL" if torch.backends.mkl.is_available() else "other BLAS",
            torch=str(torch.__version__),
            costmodel=__version__,
            host=host,
        )
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = "no NVIDIA GPU or driver is visible" if built else "this torch is built without CUDA"
        raise UnavailableError(f"device cuda was asked for, but {why}; use --device cpu, or a CUDA machine")
    facts = torch.cuda.get_device_properties(0)
    return Machine(
        kind="cuda",
        title=str(facts.name),
        units=int(facts.multi_processor_count),
        memory_bytes=int(facts.total_memory),
        cache_bytes=int(getattr(facts, "L2_cache_size", 0)),
        capability=f"{facts.major}.{facts.minor}",
        driver=_driver(torch),
        runtime=f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
        torch=str(torch.__version__),
        costmodel=__version__,
        host=host,
    )


def torch_dtype(name: str) -> Any:
    """Return torch's dtype for one of our format names."""
    if name not in TORCH_DTYPES:
        raise unknown_name("dtype to measure", name, TORCH_DTYPES)
    return getattr(load_torch(), TORCH_DTYPES[name])


@contextmanager
def math_mode(dtype: str) -> Iterator[None]:
    """Allow TF32 only if the format is ``tf32``, including cuDNN's own switch."""
    torch = load_torch()
    allow = dtype == "tf32"
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32, cudnn.allow_tf32 = allow, allow
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def sdpa_backend(name: str) -> AbstractContextManager[None]:
    """Return the context in which scaled-dot-product attention uses a given backend."""
    load_torch()
    attention = importlib.import_module("torch.nn.attention")
    backends = {
        "math": attention.SDPBackend.MATH,
        "efficient": attention.SDPBackend.EFFICIENT_ATTENTION,
        "flash": attention.SDPBackend.FLASH_ATTENTION,
        "cudnn": attention.SDPBackend.CUDNN_ATTENTION,
    }
    if name not in backends:
        raise unknown_name("backend of attention", name, backends)
    context: AbstractContextManager[None] = attention.sdpa_kernel(backends[name])
    return context


# -- facts of the host --------------------------------------------------------------------------


def _cpu_title() -> str:
    """Return the processor's name, with its family and model if the name has no number.

    Virtual machines hide the name: theirs is "AMD EPYC" for every generation.
    """
    facts = cpu_facts()
    title = facts.get("model name") or platform.processor() or platform.machine()
    brand = title.partition("@")[0].strip()
    if "cpu family" in facts and not any(letter.isdigit() for letter in brand):
        return f"{brand} (family {facts['cpu family']}, model {facts['model']})"
    return title


def cpu_facts() -> dict[str, str]:
    """Return what Linux tells of the first processor: ``vendor_id``, ``cpu family``, ``model name``, …"""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _cpu_memory() -> int:
    if not hasattr(os, "sysconf") or sys.platform == "win32":
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cpu_cache() -> int:
    """Return the size of the largest cache that core 0 sees [bytes]."""
    sizes = [size for _, size in cpu_caches()]
    return max(sizes, default=0)


def cpu_caches() -> list[tuple[int, int]]:
    """Return level and size [bytes] of the data caches that core 0 sees, innermost first."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            if (folder / "type").read_text(encoding="utf-8").strip() == "Instruction":
                continue
            level = int((folder / "level").read_text(encoding="utf-8"))
            text = (folder / "size").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            continue
        scale = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1)
        found.append((level, int(text.rstrip("KMG")) * scale))
    return found


def _driver(torch: Any) -> str:
    """Return the NVIDIA driver's version if NVML or the kernel module reports it."""
    try:
        pynvml = importlib.import_module("pynvml")
        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
        return version.decode() if isinstance(version, bytes) else str(version)
    except Exception:  # NVML is missing or not permitted; its errors have no common base class
        pass
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0].strip()
    except OSError:
        return f"for CUDA {torch.version.cuda}"
