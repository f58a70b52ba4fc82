"""Map the names of frameworks and kernels to static options of kernel models.

A layer says what is computed. How a library computes it (which tile, which attention kernel, what stays warm
between replays) follows from the framework's name and its name for the kernel, as measurements and users give
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from costmodel.errors import UnavailableError, UnknownNameError, shown, unknown_name
from costmodel.hardware import Device
from costmodel.kernels import _flash, _tiles

Options = dict[str, Any]

#: Serving frameworks whose prefill also writes K and V to a cache, and how they do (`kernels.attention`).
CACHE_WRITES = {"vllm": "token", "sglang": "bytes", "trtllm": "bytes"}

#: What a framework's benchmark rotates from one replay of a product to the next, which decides how much stays
#: warm in L2. AITER's FP8 kernels with scales per block (DeepSeek's) go by a name of their own, beside those
#: with a scale per row.
ROTATIONS = {
    **{"trtllm": "weights", "sglang": "operands", "vllm": "layers", "sarathi-vllm": "operands"},
    **dict.fromkeys(("aiter", "aiter-blockscale"), "copies"),
}

#: Libraries whose recurrences launch a kernel per step, and the one that fuses all steps into one kernel.
STEP_BY_STEP, FUSED = ("cudnn", "miopen", "haste"), "flashrnn"
#: Prefixes of the names of torch 2's own modules, alone or with the release.
_TORCH = ("torch.nn.", "pytorch 2")
#: Architectures that DeepBench timed cuDNN on; it asked for one kernel per step.
_CUDNN_OF_STEPS = ("kepler", "maxwell", "pascal", "pascal-gp10x", "volta")

#: The operation that most attention constants are fitted on, and the kernel models of attention.
_CAUSAL, _ATTENTION = "attention_prefill", ("attention", "decode")
#: Kernel models with several algorithms whose constants do not carry over to one another.
ALGORITHMS = ("delta",)
#: Kernel models for which each framework has its own kernel of the same algorithm: sglang's convolution of
#: one token takes 1.10 times as long as vLLM's on B200, 1.13 on L40S.
OWN_KERNELS = ("conv",)


def arguments(
    kernel: str,
    op: str,
    framework: str | None,
    label: str | None,
    device: Device,
    fitted: str | None = None,
) -> Options:
    """Return the static arguments of a kernel model that depend on the implementation.

    Parameters
    ----------
    kernel : str
        The kernel model.
    op : str
        The operation, as measurements name it.
    framework : str or None
        The framework (``trtllm``, ``vllm``, …).
    label : str or None
        The framework's own name for the kernel.
    device : Device
        The device that runs it: libraries choose kernels by architecture.
    fitted : str, optional
        The operation that the constants were fitted on, where the constants decide which kernel runs.
    """
    found = _READERS.get(kernel)
    options = found(op, framework or "", label or "", device) if found else {}
    if kernel == "attention" and fitted == _CAUSAL and op != _CAUSAL:
        # Constants of a library's causal kernel need that kernel's tiles, but not its paged cache or its
        # graphs.
        options["kernel"] = _flash.library(_flash.kernel_named(device, label or "", framework or "", True))
    return options


def named(kernel: str, framework: str | None, label: str | None) -> bool:
    """Return whether the framework's or the kernel's name decides which kernel runs.

    For attention, only serving frameworks, and those that are libraries of kernels (AITER), have kernels of
    their own. For recurrent layers the constants never decide: they are fitted on published rows of cuDNN's
    standard algorithm, whereas a user who names no library gets the algorithm that the library would pick.
    """
    if kernel in _ATTENTION:
        return framework in CACHE_WRITES or says(kernel, framework) or says(kernel, label)
    return kernel == "recurrence" or framework is not None or (kernel in ALGORITHMS and says(kernel, label))


def says(kernel: str, label: str | None) -> bool:
    """Return whether a kernel model understands a kernel's name: one name is passed to all of a layer's."""
    return bool(label) and kernel in _SAYING and _SAYING[kernel](label or "")


def check_kernel(name: str, models: Iterable[str], device: Device) -> None:
    """Refuse a kernel name that none of these models understands; a default would silently stand in.

    Raises
    ------
    UnknownNameError
        If it is not the name of an attention library, a product's tile (``sgemm_128x64``), a delta net's
        kernel or a recurrence's, or if its kernel model is not among `models`.
    UnavailableError
        If it is an attention library that runs on another vendor's devices only.
    """
    models = tuple(models)
    if not any(says(model, name) for model in models):
        known = [example for model in models for example in _SAID.get(model, ())]
        if not known:
            raise UnknownNameError(f"no kernel here goes by a name, got kernel={shown(name)}; leave it out")
        raise unknown_name("kernel", name, known)
    if any(model in _ATTENTION for model in models) and _flash.absent(name, device):
        there = ", ".join(_flash.present(device))
        raise UnavailableError(f"kernel {name} does not run on {device.name}; there: {there}")


def library(kernel: str, op: str, framework: str | None, label: str | None, device: Device) -> str | None:
    """Return the attention library that these names select there (``fa3``); None if they select none."""
    if kernel not in _ATTENTION or not named(kernel, framework, label):
        return None
    return _flash.library(arguments(kernel, op, framework, label, device)["kernel"])


def same_code(
    kernel: str, op: str, framework: str | None, label: str | None, device: Device
) -> tuple[str, ...]:
    """Return the libraries that share an attention kernel's code on all architectures, its own first.

    Empty where each architecture has a kernel written for it (flash-attention 3, TensorRT-LLM), or where the
    name does not identify the library (SGLang's ``flash_attention`` on A100).
    """
    if label and not says(kernel, label):
        return ()
    return _flash.SAME_CODE.get(library(kernel, op, framework, label, device) or "", ())


def beside(kernel: str, op: str, framework: str | None, direction: str) -> Options:
    """Return the static arguments for what a framework's call does in addition to the layer's own work.

    Without a framework, a layer is its own work alone, whichever constants it uses. Only when a framework is
    asked for is its whole call meant.

    Parameters
    ----------
    kernel, op : str
        The kernel model, and the operation as measurements name it.
    framework : str or None
        The framework asked for, or None.
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


def _delta(_: str, framework: str, label: str, __: Device) -> Options:
    """FlashInfer's kernel (vLLM's) walks the chunks in one block; flash-linear-attention has several."""
    fused = _of_flashinfer(label) if _of_delta(label) else framework == "vllm"
    return {"kernel": "fused" if fused else "chunked"}


def _of_delta(label: str) -> bool:
    return "delta_rule" in label or _of_flashinfer(label)


def _of_flashinfer(label: str) -> bool:
    return label.lower().endswith("flashinfer")


def recurrent(name: str) -> bool:
    """Return whether a name identifies a library of recurrent layers."""
    return name.lower().startswith((*STEP_BY_STEP, FUSED, *_TORCH))


def _recurrence(_: str, framework: str, label: str, device: Device) -> Options:
    """DeepBench times cuDNN's and MIOpen's stepwise algorithms; FlashRNN fuses the steps; torch chooses.

    cuDNN leaves the choice to its caller. Since DeepBench that is a framework, and only torch's rule is
    known.
    """
    name = (label or framework).lower()
    by_name = name == "pytorch" or name.startswith(_TORCH)
    newer = name.startswith("cudnn") and device.family not in _CUDNN_OF_STEPS
    if device.vendor == "NVIDIA" and (by_name or newer):
        return {"chosen_by": "torch"}
    if name.startswith(FUSED):
        return {"persistent": name.endswith("fused")}
    # AMD's libraries have no persistent algorithm.
    return {"persistent": False} if name.startswith(STEP_BY_STEP) or device.vendor == "AMD" else {}


_READERS: dict[str, Callable[[str, str, str, Device], Options]] = {
    "gemm": _gemm,
    "attention": _attention,
    "decode": _decode,
    "delta": _delta,
    "recurrence": _recurrence,
}

#: For each kernel model that reads kernel names: whether a name means something to it.
_SAYING: dict[str, Callable[[str], bool]] = {
    "gemm": _tiles.says,
    "attention": _flash.says,
    "decode": _flash.says,
    "delta": _of_delta,
    "state_update": _of_delta,
    "recurrence": recurrent,
}
#: Examples of valid names, for error messages.
_SAID: dict[str, tuple[str, ...]] = {
    "gemm": ("sgemm_128x64",),
    "attention": _flash.KERNELS,
    "decode": _flash.KERNELS,
    "delta": ("chunk_gated_delta_rule", "flashinfer"),
    "state_update": ("fused_recurrent_gated_delta_rule",),
    "recurrence": (*STEP_BY_STEP, FUSED, f"{FUSED}-fused"),
}
