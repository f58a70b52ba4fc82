"""The predicted time of a layer on a device: seconds, the limiting resource, and the constants used."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from costmodel import answer, calibration, hardware, kernels
from costmodel.cost import ENGINES
from costmodel.dtypes import DTYPES
from costmodel.errors import SizeError, shown
from costmodel.evaluate import Number, common_shape, counts_of, spread
from costmodel.layers import Layer
from costmodel.plan import Plan, phase_rows
from costmodel.units import in_full

#: What can limit a kernel, as answers name it.
LIMITS = (
    *(f"{engine}:{dtype}" for engine in ENGINES for dtype in DTYPES),
    *("hbm", "l2", "depth", "launch", "link"),
)
#: Number of rows predicted together: their intermediate results stay in a core's cache, which is several
#: times faster than main memory.
BLOCK = 16384


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The predicted time of a layer on a device, and its components.

    Returned by `predict`. Values are scalars for scalar sizes and float64 arrays for arrays, and are computed
    on first access. Every count is an attribute too: ``matrix_flops``, ``vector_flops``, ``special_flops``
    [FLOP], ``hbm_bytes``, ``l2_bytes``, ``compulsory_bytes``, ``footprint_bytes``, ``kept_bytes`` [bytes],
    ``depth`` [steps], ``pram_depth`` [operations], ``path`` [steps], ``launches`` [kernels], ``parameters``
    [numbers]; `Cost` says what each of them counts.

    Attributes
    ----------
    plan : Plan
        Layer, device, rung and state, each also an attribute of its own.
    shapes : mapping of str to float or array
        Every size, including defaults and the device's own.
    """

    plan: Plan
    shapes: Mapping[str, Number]

    def __getstate__(self) -> dict[str, Any]:
        """Return the plan and the sizes only; numbers are computed anew after unpickling."""
        return {"plan": self.plan, "shapes": self.shapes}

    # -- what it is of ---------------------------------------------------------------------

    @property
    def layer(self) -> Layer:
        """The layer."""
        return self.plan.layer

    @property
    def device(self) -> hardware.Device:
        """The device."""
        return self.plan.device

    @property
    def rung(self) -> str:
        """``bound``, ``kernel`` or ``calibrated``."""
        return self.plan.rung

    @property
    def state(self) -> str:
        """``cold`` or ``warm``; the rung ``bound`` is always cold."""
        return "cold" if self.rung == "bound" else self.plan.state

    @property
    def constants_from(self) -> str:
        """Origin of the constants: ``none``, ``self`` (this device's), or a related device's name.

        For several kernels, all origins separated by commas. Brackets name what else differs: a format, a
        library, an operation.
        """
        return self.plan.constants_from

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape that the sizes broadcast to; () for scalars."""
        return common_shape(self.shapes.values())

    # -- time ------------------------------------------------------------------------------

    @cached_property
    def blocks(self) -> list[tuple[slice, Prediction]]:
        """Predictions of at most `BLOCK` rows each that make up a long one, with the rows each covers.

        Empty if this prediction is a scalar, is short, or has more than one axis.
        """
        if len(self.shape) != 1 or self.shape[0] <= BLOCK:
            return []
        rows = self.shape[0]
        whole = {name for name, size in self.shapes.items() if np.shape(size) == (rows,)}
        found = []
        for start in range(0, rows, BLOCK):
            where = slice(start, min(start + BLOCK, rows))
            part = {n: size[where] if n in whole else size for n, size in self.shapes.items()}  # type: ignore[index]
            found.append((where, Prediction(self.plan, part)))
        return found

    def _joined(self, name: str) -> Any:
        return np.concatenate([getattr(part, name) for _, part in self.blocks])

    @cached_property
    def parts(self) -> list[tuple[Number, Number, dict[str, Number]]]:
        """For each phase: repeats, time of one run [s], terms of one run [s]."""
        if self.rung == "bound":
            return self._bound_parts()
        try:
            with np.errstate(over="raise"):
                return self._kernel_parts()
        except FloatingPointError:
            # Kernel models compare choices in single precision; sizes that overflow it give no valid time.
            given = (f"{name}={in_full(np.max(self.shapes[name]))}" for name in self.layer.required)
            raise SizeError(
                f"sizes of {self.layer.name}: too large together to be meant: {', '.join(given)}"
            ) from None

    def _bound_parts(self) -> list[tuple[Number, Number, dict[str, Number]]]:
        values = iter(self.plan.bound_function(*(self.shapes[name] for name in self.plan.arguments)))
        bandwidth = self.device.hbm_bandwidth
        parts = []
        for part in self.plan.phases:
            repeats = next(values)
            terms = {label: next(values) / rate for label, _, rate in part.rates}
            terms["hbm"] = next(values) / bandwidth
            if part.sends:
                terms["link"] = next(values) / part.send_rate
            seconds: Number = 0.0
            for term in terms.values():
                seconds = _larger(seconds, term)
            parts.append((repeats, seconds, terms))
        return parts

    def _kernel_parts(self) -> list[tuple[Number, Number, dict[str, Number]]]:
        parts = []
        for part, (repeats, sizes) in zip(self.plan.phases, self.kernel_sizes, strict=True):
            model = kernels.model(part.kernel)
            estimate = model.seconds(part.device, part.choice.constants, **sizes, **part.options)
            parts.append((repeats, estimate.seconds, dict(estimate.terms)))
        return parts

    @property
    def phase_seconds(self) -> list[Number]:
        """For each phase the time of all runs [s]; if it overlaps the one before, only the excess over it."""
        whole = [seconds * repeats for repeats, seconds, _ in self.parts]
        if not self.plan.overlaps:
            return whole
        return [
            _larger(0.0, seconds - whole[i - 1]) if part.phase.overlaps else seconds
            for i, (part, seconds) in enumerate(zip(self.plan.phases, whole, strict=True))
        ]

    @cached_property
    def seconds(self) -> Any:
        """Time [s]: the cold roofline at ``bound``, else the estimate of a measurement.

        An estimate is never below `lower_s`, whatever the fitted constants are.
        """
        if self.shape and self.blocks:
            return self._joined("seconds")
        total = sum(self.phase_seconds[1:], self.phase_seconds[0])
        if self.rung != "bound":
            total = np.maximum(total, self.lower_s)
        if self.plan.host.launch_s:
            total = np.maximum(total, self._host_s)
        return spread(total, self.shape)

    @cached_property
    def _host_s(self) -> Number:
        """Time from the first launch to the last [s] if a harness is named, else 0."""
        launch_s = self.plan.host.launch_s
        if not launch_s:
            return 0.0
        (launches,) = self.plan.launch_function(*(self.shapes[name] for name in self.plan.arguments))
        return launch_s * (launches - 1.0)  # type: ignore[no-any-return]

    @cached_property
    def serial_s(self) -> Any:
        """Sum of all terms of all kernels, without any overlap [s]."""
        if self.shape and self.blocks:
            return self._joined("serial_s")
        total: Number = 0.0
        for repeats, _, terms in self.parts:
            total = total + repeats * sum(terms.values())
        return spread(total, self.shape)

    @property
    def limits_s(self) -> dict[str, Any]:
        """Time of each limit alone over all kernels [s], by its name; their sum is `serial_s`."""
        found: dict[str, Number] = {}
        for repeats, _, terms in self.parts:
            for label, term in terms.items():
                name = self.named(label)
                found[name] = found.get(name, 0.0) + repeats * term
        return {name: spread(time, self.shape) for name, time in found.items()}

    @property
    def utilisation(self) -> Any:
        """Share of the peak of the layer's dtype that its products reach; 0 if it has no products."""
        flops = self.counts["matrix_flops"]
        if not np.any(flops):
            return flops
        return flops / self.seconds / self.device.peak(self.layer.dtype)

    @property
    def fits(self) -> Any:
        """Whether ``footprint_bytes`` fit into the device's memory."""
        return self.counts["footprint_bytes"] <= self.device.hbm_capacity

    @cached_property
    def lower_s(self) -> Any:
        """Lower bound of any measured time of this work, warm or cold, fused or not [s].

        The larger of two times: the FLOPs that every schedule does, on the fastest engine of their dtype at
        the highest known clock; and the compulsory bytes that the last-level cache cannot hold, at the memory
        bandwidth.
        """
        if self.shape and self.blocks:
            return self._joined("lower_s")
        *flops, compulsory, updated = self.plan.lower_function(*(self.shapes[n] for n in self.plan.arguments))
        cache = self.device.llc_capacity
        traffic = np.maximum(0.0, compulsory - cache - np.minimum(cache, updated))
        lower = traffic / self.device.hbm_bandwidth
        for (_, dtype), count in zip(self.plan.work.least_flops, flops, strict=True):
            if self.device.has(dtype):
                lower = np.maximum(lower, count / self.device.boost_peak(dtype))
        return spread(lower, self.shape)

    @cached_property
    def bound(self) -> Any:
        """The limit: an engine (``matrix:bf16``, …), ``hbm``, ``l2``, ``depth``, ``launch`` or ``link``.

        Each kernel's time is attributed to its largest term; this is the term with the largest total.
        """
        limiting = np.array(LIMITS)[self.limit]
        return limiting if self.shape else str(limiting)

    @cached_property
    def limit(self) -> Any:
        """Index of `bound` in ``LIMITS``."""
        if self.shape and self.blocks:
            return self._joined("limit")
        totals: dict[str, Number] = {}
        for seconds, (_, _, terms) in zip(self.phase_seconds, self.parts, strict=True):
            largest: Number = 0.0
            for term in terms.values():
                largest = _larger(largest, term)
            for label, term in terms.items():
                totals[label] = totals.get(label, 0.0) + np.where(term >= largest, seconds, 0.0)
        if self.plan.host.launch_s:
            waited = np.where(self._host_s > sum(self.phase_seconds), self._host_s, 0.0)
            totals["launch"] = totals.get("launch", 0.0) + waited
        stacked = [np.broadcast_to(np.asarray(t, dtype=np.float64), self.shape) for t in totals.values()]
        places = np.array([LIMITS.index(self.named(label)) for label in totals], dtype=np.int8)
        return places[np.argmax(np.stack(stacked), axis=0)]

    def named(self, label: str) -> str:
        """Return a term's label with the engine that computes it: vector units may multiply, too."""
        engine, _, dtype = label.partition(":")
        return f"{self.device.engine(dtype)}:{dtype}" if engine == "matrix" else label

    # -- how sure --------------------------------------------------------------------------

    def interval(self, level: int) -> tuple[Any, Any]:
        """Return the interval [s] that holds `level` % (80 or 95) of measurements.

        It comes from residuals on held-out rows (for a relative's constants, from those on other devices);
        NaN where there are none. Errors of the kernels are taken to be fully correlated. Neither end is below
        the lower bound.

        Parameters
        ----------
        level : {80, 95}
            Percent of measurements.

        Raises
        ------
        SizeError
            If `level` is neither 80 nor 95.
        """
        if not isinstance(level, numbers.Real) or level not in tuple(calibration.LEVELS):
            raise SizeError(f"interval: wanted 80 or 95 % of measurements, got {shown(level)}")
        low: Number = 0.0
        high: Number = 0.0
        for part, seconds, (repeats, _, _) in zip(
            self.plan.phases, self.phase_seconds, self.parts, strict=True
        ):
            if not part.choice.spread:
                nothing = spread(np.nan, self.shape)
                return nothing, nothing
            runs = np.maximum(repeats, 1.0)
            each = np.asarray(seconds / runs, dtype=np.float64)
            below, above = calibration.interval(part.choice.spread, each, level)
            low, high = low + below * runs, high + above * runs
        # The host or the lower bound may raise the time above the kernels' sum; that raises both ends alike.
        # A single device's exchange takes no time at all.
        longer = self.seconds / np.maximum(sum(self.phase_seconds), np.finfo(np.float64).tiny)
        ends = (np.maximum(end * longer, self.lower_s) for end in (low, high))
        lower, upper = (spread(end, self.shape) for end in ends)
        return lower, upper

    @property
    def lo80_s(self) -> Any:
        """Lower end of the 80 % interval [s]."""
        return self.interval(80)[0]

    @property
    def hi80_s(self) -> Any:
        """Upper end of the 80 % interval [s]."""
        return self.interval(80)[1]

    @property
    def lo95_s(self) -> Any:
        """Lower end of the 95 % interval [s]."""
        return self.interval(95)[0]

    @property
    def hi95_s(self) -> Any:
        """Upper end of the 95 % interval [s]."""
        return self.interval(95)[1]

    @cached_property
    def kernel_sizes(self) -> list[tuple[Number, dict[str, Number]]]:
        """For each phase: its repeats, and the sizes its kernel model takes."""
        values = iter(self.plan.kernel_function(*(self.shapes[n] for n in self.plan.arguments)))
        return [(next(values), {name: next(values) for name in p.phase.sizes}) for p in self.plan.phases]

    @cached_property
    def in_range(self) -> Any:
        """Whether the sizes of every kernel that runs lie within those its constants were fitted on."""
        inside: Any = self.rung != "bound"
        for part, (repeats, sizes) in zip(self.plan.phases, self.kernel_sizes, strict=True):
            section = part.choice.section
            fitted: Any = section is not None
            for name, (low, high) in section.sizes.items() if section else ():
                if name in sizes:
                    fitted = fitted & (sizes[name] >= low) & (sizes[name] <= high)
            inside = inside & (fitted | (np.asarray(repeats) == 0))
        return np.broadcast_to(np.asarray(inside, dtype=bool), self.shape) if self.shape else bool(inside)

    @property
    def nearest_fitted(self) -> list[dict[str, Any]]:
        """For each kernel its sizes by name, clipped to the range that its constants were fitted on."""
        nearest = []
        for part, (_, sizes) in zip(self.plan.phases, self.kernel_sizes, strict=True):
            ranges = part.choice.section.sizes if part.choice.section else {}
            nearest.append({n: np.clip(v, *ranges[n]) for n, v in sizes.items() if n in ranges})
        return nearest

    # -- counts ----------------------------------------------------------------------------

    @cached_property
    def counts(self) -> Mapping[str, Any]:
        """Every count of the layer by name, as `evaluate` gives them."""
        return counts_of(self.layer, self.shapes)

    def __getattr__(self, name: str) -> Any:
        """Return a count (``matrix_flops``, ``hbm_bytes``, ``depth``, …)."""
        if name.startswith("_"):
            raise AttributeError(name)
        counts = self.counts
        if name not in counts:
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}; it has the counts {', '.join(counts)}"
            )
        return counts[name]

    @cached_property
    def phases(self) -> list[dict[str, Any]]:
        """Each kernel's name (``phase``), ``seconds``, ``bound``, counts and ``constants_from``, in order."""
        arguments = [self.shapes[n] for n in self.plan.arguments]
        rows = []
        for part, counted, function, seconds, (repeats, _, terms) in zip(
            self.plan.phases,
            self.layer.cost.phases,
            self.plan.phase_functions,
            self.phase_seconds,
            self.parts,
            strict=True,
        ):
            labels = np.array([self.named(label) for label in terms])
            stacked = np.stack(
                [np.broadcast_to(np.asarray(t, dtype=np.float64), self.shape) for t in terms.values()]
            )
            limiting = labels[np.argmax(stacked, axis=0)]
            counts = dict(zip(phase_rows(counted), function(*arguments), strict=True))
            rows.append(
                {
                    "phase": part.phase.name,
                    "kernel": part.phase.kernel,
                    "seconds": spread(seconds, self.shape),
                    "serial_s": spread(repeats * sum(terms.values()), self.shape),
                    "bound": limiting if self.shape else str(limiting),
                    "constants_from": part.choice.whose if self.rung != "bound" else "none",
                    "framework": part.choice.section.framework if part.choice.section else None,
                    **{name: spread(value, self.shape) for name, value in counts.items()},
                }
            )
        return rows

    @property
    def missing(self) -> tuple[str, ...]:
        """Figures that the device's spec lacks; their terms are left out of the answer."""
        return self.plan.missing

    @property
    def sizes(self) -> dict[str, Any]:
        """The layer's sizes, given or default."""
        return {name: answer.plain(self.shapes[name]) for name in self.layer.sizes()}

    def __repr__(self) -> str:
        """Return layer, device, rung and sizes; no time is computed."""
        sizes = " ".join(
            f"{name}={in_full(size)}" if isinstance(size, float) else f"{name}[{size.size}]"
            for name, size in self.shapes.items()
            if name in self.layer.sizes()
        )
        return f"Prediction({self.layer.label} on {self.device.name}, {self.rung}: {sizes})"

    def _repr_html_(self) -> str:
        """Show the answer in a notebook: a row for each kernel, or for arrays a row for each size."""
        return answer.as_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole answer as plain numbers, lists and text, for JSON."""
        return answer.as_dict(self)


def _larger(a: Number, b: Number) -> Number:
    """Return the larger of two times, quickly for scalars."""
    if isinstance(a, float) and isinstance(b, float):
        return a if a >= b else b
    return np.maximum(a, b)
