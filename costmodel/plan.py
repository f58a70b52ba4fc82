"""A prediction before its sizes are known: kernels, rates, constants, compiled counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from costmodel import calibration, choosing, hardware, implementations, kernels
from costmodel.cost import ENGINES, ZERO, Cost, Phase
from costmodel.errors import UnavailableError
from costmodel.evaluate import compile_expressions
from costmodel.files import remembered
from costmodel.harness import NONE, Host, host
from costmodel.layers import Layer
from costmodel.symbols import DEVICE_SIZES

#: Constants for how much of the operands a cache still holds from the previous call.
RESIDENCY = ("warm_share", "cache_share")
#: What a CPU takes longer for a call when the framework's own code and data come from memory, too [s]: 57 to
#: 65 µs for a copy of 256 bytes (validation/DIARY.md, "A cold call fetches its own code").
COLD_CALL_S = 6e-5
#: Kernel models of operands that a layer uses once per run and may find in a cache in the next: weights,
#: cached keys.
KEEPING = ("gemm", "experts", "decode", "cpu_gemm")
#: Kernel models whose vector unit works concurrently with the products; its share of the FLOPs is their size
#: `operations`.
BESIDE = ("systolic_attention", "systolic_decode")


#: Framework, harness and name of the kernel: which implementation is meant and how it is timed; None if not
#: given.
Implementation = tuple[str | None, str | None, str | None]


@dataclass(frozen=True, eq=False)
class PhasePlan:
    """One kernel of a layer on a device, before its sizes are known.

    Attributes
    ----------
    phase : Phase
        What it computes and moves.
    device : Device
        The device that runs it, at the clock that its constants are for.
    kernel : str
        The kernel model that times it on this device.
    rates : tuple of (str, float)
        Arithmetic that may limit it (``matrix:bf16``, …), and the device's rate [FLOP/s].
    choice : Choice
        The constants its kernel model uses; origin ``none`` at rung ``bound``.
    options : mapping
        Static arguments of its kernel model, from the layer and from the implementation.
    direction : str
        The direction that its constants were fitted on.
    """

    phase: Phase
    device: hardware.Device
    kernel: str
    rates: tuple[tuple[str, tuple[str, str], float], ...]
    choice: choosing.Choice
    options: Mapping[str, Any]
    direction: str

    @cached_property
    def sends(self) -> bool:
        """Whether it sends anything to other devices."""
        return bool(self.phase.link != 0)

    @cached_property
    def send_rate(self) -> float:
        """Bandwidth for what it sends [B/s]; infinite without a link in the spec, which `missing` names."""
        device = self.device
        rate = device.sum_bandwidth if self.phase.sent_by == "sums" else device.link_bandwidth
        return rate or math.inf


@dataclass(frozen=True, eq=False)
class Plan:
    """A layer on a device at a rung, before its sizes are known.

    `asked` holds the other arguments of `predict` by name; `host` is the harness's host, if a harness is
    named.
    """

    layer: Layer
    device: hardware.Device
    rung: str
    state: str
    phases: tuple[PhasePlan, ...]
    missing: tuple[str, ...]
    asked: Mapping[str, str | None]
    host: Host = NONE

    @cached_property
    def work(self) -> Cost:
        """Exact counts of the layer, whatever convention its own counts are in."""
        return self.layer.exact.cost

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """Names of the sizes that the expressions take."""
        return (*self.layer.sizes(), *DEVICE_SIZES)

    @cached_property
    def bound_function(self) -> Any:
        """Compiled: for each phase its repeats, FLOPs by engine, memory traffic, and bytes sent."""
        rows = []
        for part in self.phases:
            rows += [part.phase.repeats, *(part.phase.flops[key] for _, key, _ in part.rates), part.phase.hbm]
            rows += [part.phase.link] if part.sends else []
        return compile_expressions(rows, self.arguments)

    @cached_property
    def kernel_function(self) -> Any:
        """Compiled: for each phase its repeats and the sizes of its kernel model."""
        rows = []
        for part in self.phases:
            rows += [part.phase.repeats, *part.phase.sizes.values()]
        return compile_expressions(rows, self.arguments)

    @cached_property
    def lower_function(self) -> Any:
        """Compiled: least FLOPs by engine and dtype, compulsory bytes, state updated in place."""
        work = self.work
        counts = [*work.least_flops.values(), work.compulsory, work.updated]
        return compile_expressions(counts, self.arguments)

    @cached_property
    def launch_function(self) -> Any:
        """Compiled: the number of kernel launches."""
        return compile_expressions([self._launches], self.arguments)

    @cached_property
    def phase_functions(self) -> tuple[Any, ...]:
        """Compiled, for each phase: the counts that answers show, in the layer's convention."""
        return tuple(
            compile_expressions(list(phase_rows(phase).values()), self.arguments)
            for phase in self.layer.cost.phases
        )

    @cached_property
    def overlaps(self) -> bool:
        """Whether any kernel runs at the same time as another."""
        return any(part.phase.overlaps for part in self.phases)

    @cached_property
    def _launches(self) -> Any:
        return sum((part.phase.launches * part.phase.repeats for part in self.phases), ZERO)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields only: compiled functions cannot be pickled, and are compiled anew."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def launched_by(self, launcher: Host) -> Plan:
        """Return the plan with the launch overhead of a harness's host."""
        launches = float(self._launches) if self._launches.is_number else None
        phases = tuple(
            replace(
                part,
                choice=replace(part.choice, constants=launcher.dispatched(part.choice.constants, launches)),
            )
            for part in self.phases
        )
        return replace(self, phases=phases, host=launcher)

    @property
    def constants_from(self) -> str:
        """Origins of the constants, separated by commas; ``none`` at rung ``bound``."""
        if self.rung == "bound":
            return "none"
        origins = dict.fromkeys(part.choice.whose for part in self.phases)
        return ", ".join(origins)


def check_runs(layer: Layer, device: hardware.Device) -> None:
    """Refuse a layer with a kernel that a device cannot run at all, whatever the rung.

    Raises
    ------
    UnavailableError
        If it has one.
    """
    for phase in layer.exact.cost.phases:
        kernels.refuse(kernels.on(phase.kernel, device), device, phase.options, by="runs")


@remembered(maxsize=4096)
def make_plan(
    layer: Layer,
    device: hardware.Device,
    rung: str | None,
    state: str,
    implementation: Implementation,
) -> Plan:
    """Return the plan of a layer on a device: a kernel model, constants and options for each phase.

    Parameters
    ----------
    layer : Layer
        With its static options.
    device : Device
        The device that runs it.
    rung : {"bound", "kernel", "calibrated"}, optional
        The rung of the prediction; default the best there is.
    state : {"warm", "cold"}
        Whether inputs are resident.
    implementation : Implementation
        Which implementation is meant, and how it is timed.

    Raises
    ------
    UnavailableError
        If the rung needs constants that do not exist, or if the device lacks the dtype, a link, or a model of
        the kernel.
    """
    check_runs(layer, device)
    framework, harness, label = implementation
    parts: list[PhasePlan] = []
    missing = dict.fromkeys(device.missing)
    own = rung != "kernel"
    for phase in layer.exact.cost.phases:
        kernel, direction = kernels.on(phase.kernel, device), _direction(phase)
        rates = tuple(_rates(phase, device, missing))
        choice, options = choosing.Choice("none"), kernels.plainer(kernel, phase.kernel, phase.options)
        if rung != "bound":
            kernels.refuse(kernel, device, options)
            wanted = calibration.Wanted(
                kernel=kernel,
                op=phase.op,
                dtype=str(phase.options["dtype"]),
                direction=direction,
                framework=framework,
                harness=harness,
                label=phase.library or label,
                borrowed=phase.borrowed,
            )
            choice = _constants(device, wanted, own=own)
            options |= _implemented(wanted, choice, device)
            if state == "cold":
                choice = replace(choice, constants=_cold(kernel, choice.constants))
                if kernel.startswith("cpu_") and not parts:
                    choice = replace(choice, constants=_called_cold(kernel, choice.constants, phase))
        at = choosing.at_clock(device, choice.raised)
        parts.append(
            PhasePlan(_in_layer(phase, kernel, layer), at, kernel, rates, choice, options, direction)
        )
    calibrated = all(part.choice.origin == "self" for part in parts)
    if rung == "calibrated" and not calibrated:
        lacking = dict.fromkeys(p.phase.kernel for p in parts if p.choice.origin != "self")
        raise UnavailableError(
            f"{device.name} has no constants of its own for {', '.join(lacking)} in {layer.dtype}: "
            "fit them there with `costmodel validate --record --fit`, or ask for rung kernel"
        )
    found = rung or ("calibrated" if calibrated else "kernel")
    asked = {"rung": rung, "state": state, "framework": framework, "harness": harness, "kernel": label}
    plan = Plan(layer, device, found, state, tuple(parts), tuple(missing), asked)
    launcher = host(harness, device.base_name, layer.direction) if rung != "bound" else NONE
    return plan if launcher == NONE else plan.launched_by(launcher)


@remembered(maxsize=4096)
def _constants(device: hardware.Device, wanted: calibration.Wanted, *, own: bool) -> choosing.Choice:
    """Return a kernel's constants for the harness; cached, as models contain the same kernel many times."""
    return choosing.timed(choosing.choose(device, wanted, own=own), wanted, device, own=own)


def _rates(
    phase: Phase, device: hardware.Device, missing: dict[str, None]
) -> Iterator[tuple[str, tuple[str, str], float]]:
    """Yield label, key and rate [FLOP/s] of a kernel's arithmetic; unknown rates are added to `missing`.

    A matrix product runs on the fastest engine of its dtype; without one, it cannot run.
    """
    for engine, dtype in phase.flops:
        which = None if engine == "matrix" else engine
        if engine == "matrix" or device.has(dtype, which):
            yield f"{engine}:{dtype}", (engine, dtype), device.peak(dtype, which)
        else:
            missing[f"{engine}:{dtype} rate"] = None


def _implemented(
    wanted: calibration.Wanted, choice: choosing.Choice, device: hardware.Device
) -> implementations.Options:
    """Return the static arguments of a kernel model that follow from the implementation."""
    kernel, section, fitted = wanted.kernel, choice.section, None
    framework, label = wanted.framework, wanted.label
    if section is not None and _left_open(wanted, section):
        (framework, label), fitted = section.implementation, section.op
        # A framework may run another kernel on this device: FlashAttention-3 exists on Hopper only.
        if kernel not in implementations.ALGORITHMS and choosing.elsewhere(choice, device):
            label = None
        # A GEMM kernel's name gives its tile, whichever framework calls it.
        label = wanted.label if implementations.says(kernel, wanted.label) else label
    return {
        **implementations.arguments(kernel, wanted.op, framework, label, device, fitted),
        **implementations.beside(kernel, wanted.op, wanted.framework, wanted.direction),
    }


def _left_open(wanted: calibration.Wanted, section: calibration.Section) -> bool:
    """Return whether the constants decide the implementation, because the names do not.

    A framework's name alone does not decide between algorithms, as it may use another one on another device:
    vLLM's delta net on L40S is Triton's chunked one.
    """
    kernel, framework, label = wanted.kernel, wanted.framework, wanted.label
    if not implementations.named(kernel, framework, label):
        return True
    only_whose = framework == section.framework and not implementations.says(kernel, label)
    return only_whose and kernel in implementations.ALGORITHMS


def _in_layer(phase: Phase, kernel: str, layer: Layer) -> Phase:
    """Return a phase with the additional sizes that its kernel model takes from the whole layer.

    `passing` is all that the layer moves through the cache between two uses; `operations` are the FLOPs
    outside products.
    """
    phase = replace(phase, sizes=kernels.taken(kernel, phase.kernel, phase.sizes))
    more = {}
    if kernel in KEEPING and len(layer.cost.phases) > 1:
        more["passing"] = layer.cost.compulsory
    if kernel in BESIDE:
        more["operations"] = sum((n for (engine, _), n in phase.flops.items() if engine != "matrix"), ZERO)
    return replace(phase, sizes={**phase.sizes, **more}) if more else phase


def _direction(phase: Phase) -> str:
    """Return the direction that a kernel's constants were fitted on: its own, if its options give one.

    Otherwise only passes over memory differ, because they have other operands backward; products do not.
    """
    backward = phase.direction == "bwd" and phase.kernel == "stream"
    return str(phase.options.get("direction", "bwd" if backward else "fwd"))


def _cold(kernel: str, constants: Mapping[str, float]) -> dict[str, float]:
    """Return constants with which a kernel model finds no operand in a cache."""
    described = kernels.model(kernel).CONSTANTS
    return {**constants, **{name: 0.0 for name in RESIDENCY if name in described}}


def _called_cold(kernel: str, constants: Mapping[str, float], first: Phase) -> dict[str, float]:
    """Return the constants of the first kernel of a cold call on a CPU, whose dispatch takes longer.

    If that kernel is repeated, each of them gets a part; of an unknown number of steps the part is small.
    """
    (start,) = kernels.group(kernel, "HARNESS")
    usual = constants.get(start, kernels.model(kernel).CONSTANTS[start].default)
    more = COLD_CALL_S / float(first.repeats) if first.repeats.is_number else 0.0
    return {**constants, start: usual + more}


def phase_rows(phase: Phase) -> dict[str, Any]:
    """Return a kernel's counts by the names that answers show."""
    tally = {engine: sum((v for (e, _), v in phase.flops.items() if e == engine), 0) for engine in ENGINES}
    return {
        "repeats": phase.repeats,
        **{f"{engine}_flops": value * phase.repeats for engine, value in tally.items()},
        "hbm_bytes": phase.hbm * phase.repeats,
        "l2_bytes": phase.l2 * phase.repeats,
        **({"link_bytes": phase.link * phase.repeats} if phase.link != 0 else {}),
        "depth": phase.steps * phase.repeats,
        "pram_depth": phase.pram_depth * phase.repeats,
        "launches": phase.launches * phase.repeats,
        "footprint_bytes": phase.workspace,
    }
