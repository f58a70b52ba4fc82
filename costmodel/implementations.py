"""Whose kernel it is: what a framework's name, and its kernel's, say of how the work is done.

A layer says what is computed; a kernel model can be told how a library does it (which tile, which
attention kernel, what stays warm between replays). These are facts about frameworks, read from the
names that measurements and users give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from costmodel.errors import UnknownNameError, shown, unknown_name
from costmodel.hardware import Device
from costmodel.kernels import _flash, _tiles

Options = dict[str, Any]

#: Serving frameworks, whose prefill also stores K and V into a cache, and how (`kernels.attention`).
CACHE_WRITES = {"vllm": "token", "sglang": "bytes", "trtllm": "bytes"}

#: What a harness changes from one replay of a product to the next: how much of it a cache can keep.
ROTATIONS = {"trtllm": "weights", "sglang": "operands", "vllm": "layers", "sarathi-vllm": "operands"}

#: Whose recurrences run step by step, each a kernel, and whose runs as one.
STEP_BY_STEP, FUSED = ("cudnn", "miopen", "haste"), "flashrnn"
#: What torch 2's own modules are called, by themselves or with its release.
_TORCH = ("torch.nn.", "pytorch 2")
#: Architectures whose cuDNN is the one that DeepBench timed, which asked for a kernel a step.
_CUDNN_OF_STEPS = ("kepler", "maxwell", "pascal", "pascal-gp10x", "volta")

#: The operation that most constants of attention are fitted on; and the kernel models of attention.
_CAUSAL, _ATTENTION = "attention_prefill", ("attention", "decode")
#: Kernel models whose algorithms have constants of their own: one's say nothing of another.
ALGORITHMS = ("delta",)
#: Kernel models of which frameworks have kernels of one algorithm, each its own: sglang's convolution of a
#: token takes 1.10 times as long as vLLM's on B200, 1.13 on L40S.
OWN_KERNELS = ("conv",)


def arguments(
    kernel: str,
    op: str,
    framework: str | None,
    label: str | None,
    device: Device,
    fitted: str | None = None,
) -> Options:
    """Return the static arguments of a kernel model that an implementation decides.

    Parameters
    ----------
    kernel : str
        The kernel model.
    op : str
        The operation, as measurements name it.
    framework : str or None
        Whose implementation (``trtllm``, ``vllm``, …).
    label : str or None
        Its own name for the kernel.
    device : Device
        Where it runs: libraries choose by architecture.
    fitted : str, optional
        The operation that the constants were fitted on, where it is they that say whose kernel runs.
    """
    found = _READERS.get(kernel)
    options = found(op, framework or "", label or "", device) if found else {}
    if kernel == "attention" and fitted == _CAUSAL and op != _CAUSAL:
        # Constants of a library's causal kernel go with that kernel's tiles, but for the pages of its cache
        # and the graphs of its steps.
        options["kernel"] = _flash.library(_flash.kernel_named(device, label or "", framework or "", True))
    return options


def named(kernel: str, framework: str | None, label: str | None) -> bool:
    """Return whether a framework's name, or its kernel's, says which kernel runs.

    Of attention only serving frameworks have one of their own; published recurrent rows are of cuDNN's
    standard algorithm, so that a user who names no library gets the algorithm that one would pick.
    """
    if kernel in _ATTENTION:
        return framework in CACHE_WRITES or says(kernel, label)
    return kernel == "recurrence" or framework is not None or (kernel in ALGORITHMS and says(kernel, label))


def says(kernel: str, label: str | None) -> bool:
    """Return whether a kernel's name says anything of such a kernel: a layer's name is all its kernels'."""
    return bool(label) and kernel in _SAYING and _SAYING[kernel](label or "")


def check_kernel(name: str, models: Iterable[str]) -> None:
    """Refuse a name that says nothing of any of these kernel models: a default would stand in unasked.

    Raises
    ------
    UnknownNameError
        If it is neither of a library of attention, nor a product's tile (``sgemm_128x64``), nor a delta net's
        or a recurrence's, or of a kernel model that is not among these.
    """
    models = tuple(models)
    if not any(says(model, name) for model in models):
        known = [example for model in models for example in _SAID.get(model, ())]
        if not known:
            raise UnknownNameError(f"no kernel here goes by a name, got kernel={shown(name)}; leave it out")
        raise unknown_name("kernel", name, known)


def library(kernel: str, op: str, framework: str | None, label: str | None, device: Device) -> str | None:
    """Return whose attention kernels these names say run there (``fa3``); None where they do not."""
    if kernel not in _ATTENTION or not named(kernel, framework, label):
        return None
    return _flash.library(arguments(kernel, op, framework, label, device)["kernel"])


def same_code(
    kernel: str, op: str, framework: str | None, label: str | None, device: Device
) -> tuple[str, ...]:
    """Return the libraries whose code an attention kernel is on all architectures, its own first.

    None where each architecture has a kernel written for it, as flash-attention 3's and TensorRT-LLM's are,
    or where a name does not say whose it is, as SGLang's ``flash_attention`` on A100 does not.
    """
    if label and not says(kernel, label):
        return ()
    return _flash.SAME_CODE.get(library(kernel, op, framework, label, device) or "", ())


def beside(kernel: str, op: str, framework: str | None, direction: str) -> Options:
    """Return the static arguments for what a framework's call does beside the layer's own work.

    A layer is its own work alone, whosever constants it has: only where a framework is asked for is its
    call meant.

    Parameters
    ----------
    kernel, op : str
        The kernel model, and the operation as measurements name it.
    framework : str or None
        Whose call is asked for; None if none is.
    direction : str
        A backward pass stores nothing into a cache.
    """
    if kernel == "attention" and op == _CAUSAL and direction == "fwd" and framework in CACHE_WRITES:
        return {"cache_write": CACHE_WRITES[framework]}
    return {}


def _gemm(op: str, framework: str, label: str, _: Device) -> Options:
    options: Options = {"layout": "nn" if op == "bmm" else "tn", "rotation": ROTATIONS.get(framework, "none")}
    if op in ("gemm", "bmm"):
        rows, cols, step, split = (float(v[0]) for v in _tiles.from_names([label]))
        options |= {"tile_m": rows, "tile_n": cols, "tile_k": step, "split": split}
    return options


def _attention(op: str, framework: str, label: str, device: Device) -> Options:
    return {"kernel": _flash.kernel_named(device, label, framework, op == _CAUSAL)}


def _decode(_: str, framework: str, label: str, device: Device) -> Options:
    return {"kernel": _flash.kernel_named(device, label, framework, True)}


def _delta(op: str, framework: str, label: str, _: Device) -> Options:
    """FlashInfer's kernel (vLLM's) walks the chunks in one block; flash-linear-attention's are several."""
    if op == "gdn_recurrent_decode":
        return {}
    fused = _of_flashinfer(label) if _of_delta(label) else framework == "vllm"
    return {"kernel": "fused" if fused else "chunked"}


def _of_delta(label: str) -> bool:
    return "delta_rule" in label or _of_flashinfer(label)


def _of_flashinfer(label: str) -> bool:
    return label.lower().endswith("flashinfer")


def recurrent(name: str) -> bool:
    """Return whether a name says whose recurrent layers are meant."""
    return name.lower().startswith((*STEP_BY_STEP, FUSED, *_TORCH))


def _recurrence(_: str, framework: str, label: str, device: Device) -> Options:
    """DeepBench times cuDNN's standard algorithm and MIOpen's, by steps; FlashRNN fuses; torch chooses.

    cuDNN leaves the choice to its caller: since DeepBench a framework, of which torch's rule is known.
    """
    name = (label or framework).lower()
    by_name = name == "pytorch" or name.startswith(_TORCH)
    newer = name.startswith("cudnn") and device.family not in _CUDNN_OF_STEPS
    if device.vendor == "NVIDIA" and (by_name or newer):
        return {"chosen_by": "torch"}
    if name.startswith(FUSED):
        return {"persistent": name.endswith("fused")}
    # AMD's libraries have no other.
    return {"persistent": False} if name.startswith(STEP_BY_STEP) or device.vendor == "AMD" else {}


_READERS: dict[str, Callable[[str, str, str, Device], Options]] = {
    "gemm": _gemm,
    "attention": _attention,
    "decode": _decode,
    "delta": _delta,
    "recurrence": _recurrence,
}

#: Kernel models of which a kernel's own name says something, and whether one does.
_SAYING: dict[str, Callable[[str], bool]] = {
    "gemm": _tiles.says,
    "attention": _flash.says,
    "decode": _flash.says,
    "delta": _of_delta,
    "recurrence": recurrent,
}
#: Such names, as examples of what would do.
_SAID: dict[str, tuple[str, ...]] = {
    "gemm": ("sgemm_128x64",),
    "attention": _flash.KERNELS,
    "decode": _flash.KERNELS,
    "delta": ("chunk_gated_delta_rule", "flashinfer"),
    "recurrence": (*STEP_BY_STEP, FUSED, f"{FUSED}-fused"),
}
