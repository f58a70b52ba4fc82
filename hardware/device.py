"""A device: a spec with the properties that predictions need."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from costmodel.arguments import typed
from costmodel.dtypes import DTYPES
from costmodel.dtypes import dtype as find_dtype
from costmodel.errors import NoRateError, unknown_name
from costmodel.hardware import whatif
from costmodel.hardware.quantities import Count, Quantity
from costmodel.hardware.schema import Level, Rates, Spec, quantities
from costmodel.hardware.tables import families

ENGINES = ("matrix", "vector", "special")

#: Figures that `Device.missing` looks for: name in answers → path in a spec.
_OPTIONAL = {
    "clock_base": "clocks.base",
    "vector_fp32": "compute.vector.fp32",
    "special_fp32": "compute.special.fp32",
    "l2_capacity": "memory.l2.capacity",
    "l2_bandwidth": "memory.l2.bandwidth",
    "shared_per_unit": "memory.shared.capacity",
    "registers_per_unit": "memory.registers.capacity",
    "tdp": "power.tdp",
    "link": "links",
}


#: Default side of a systolic array: that of TPUs up to v5.
_ARRAY_SIDE = 128.0
#: Size of an element of a product's accumulator [B].
_SUM_BYTES = 4


@dataclass(frozen=True)
class _Peak:
    """A dense rate [FLOP/s] at the clock for which the vendor states it, and at the highest known clock."""

    stated: float
    boost: float


@typed
@dataclass(frozen=True, eq=False)
class Device:
    """A device in SI units. It is immutable; devices of equal content are equal.

    Attributes
    ----------
    spec : Spec
        The figures and their sources.
    calibration : Path, optional
        File of the constants fitted on it, if it lies beside a user's own spec.
    """

    spec: Spec
    calibration: Path | None = None

    def __eq__(self, other: object) -> bool:
        """Compare all figures, their provenance, and the calibration file."""
        return isinstance(other, Device) and self._identity == other._identity

    def __hash__(self) -> int:
        """Hash by content."""
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, Path | None]:
        return self.spec_hash, self.calibration

    def __repr__(self) -> str:
        """Render as ``Device('nvidia/h200-sxm')``."""
        return f"Device({self.name!r})"

    # What it is

    @property
    def name(self) -> str:
        """``vendor/device``; ends in ``*`` if changed by `replace`."""
        return self.spec.name

    @property
    def base_name(self) -> str:
        """Name of the device, or of the one that `replace` changed; its constants apply."""
        return self.name.rstrip("*")

    @property
    def title(self) -> str:
        """Human-readable name."""
        return self.spec.title

    @property
    def vendor(self) -> str:
        """Manufacturer."""
        return self.spec.vendor

    @property
    def family(self) -> str:
        """Architecture family."""
        return self.spec.family

    @property
    def year(self) -> int:
        """Year of release."""
        return self.spec.year

    @property
    def scope(self) -> str:
        """What the figures describe: one GPU, a whole board, one die of two, a socket."""
        return self.spec.scope

    # Processors

    @cached_property
    def units(self) -> float:
        """Number of processors (SM, CU, TensorCore, MME, core)."""
        return self.spec.units.count.si

    @cached_property
    def array_side(self) -> float:
        """Side of the systolic arrays to which products are padded; 128 unless the spec gives another."""
        return self.spec.units.array.si if self.spec.units.array else _ARRAY_SIDE

    @cached_property
    def clock_hz(self) -> float:
        """Boost clock [Hz]."""
        return self.spec.clocks.boost.si

    @cached_property
    def raised(self) -> float:
        """Ratio of the clock that a board reaches while power allows to the stated boost, at least 1.

        GeForce, TITAN, P4 and RTX workstation boards raise their clock towards the driver's ceiling
        (``clocks.max``). It is taken to be midway, which agrees with published products on an RTX 3090, a
        4090 and a 5090 (1.9, 2.8 and 2.75 GHz). The ratio is 1 for devices without graphics memory, whose
        highest clock is that of two cores of a CPU, or the bound of a guess.
        """
        ceiling = self.spec.clocks.max if self.graphics_memory else None
        return max((1 + ceiling.si / self.clock_hz) / 2, 1.0) if ceiling else 1.0

    @cached_property
    def highest_clock_hz(self) -> float:
        """Highest clock known to occur [Hz]; the lower bound's peaks are at this clock."""
        clocks = self.spec.clocks
        known = (clocks.boost, clocks.matrix, clocks.vector, clocks.max)
        return max(clock.si for clock in known if clock is not None)

    @cached_property
    def matrix_clock_hz(self) -> float:
        """Clock for which the matrix peaks are stated [Hz]."""
        return (self.spec.clocks.matrix or self.spec.clocks.boost).si

    @cached_property
    def peak_clock_ratio(self) -> float:
        """Ratio of the highest known boost to the clock of the stated matrix peaks, at least 1."""
        return self.highest_clock_hz / self.matrix_clock_hz

    @cached_property
    def vector_clock_ratio(self) -> float:
        """Ratio of the highest known boost to the clock of the stated vector rates, at least 1."""
        return self.highest_clock_hz / (self.spec.clocks.vector or self.spec.clocks.boost).si

    @cached_property
    def _peaks(self) -> dict[str, dict[str, _Peak]]:
        compute = self.spec.compute

        def table(rates: Rates, ratio: float) -> dict[str, _Peak]:
            return {name: _Peak(rate.si, rate.ends[1] * ratio) for name, rate in rates.items()}

        return {
            "matrix": table(compute.matrix, self.peak_clock_ratio),
            "vector": table(compute.vector, self.vector_clock_ratio),
            "special": table(compute.special, self.vector_clock_ratio),
        }

    @typed
    def peak(self, dtype: str, engine: str | None = None) -> float:
        """Return the dense rate [FLOP/s] at the clock for which the vendor states it.

        Parameters
        ----------
        dtype : str
            ``fp32`` is true FP32, on whichever engine does it fastest (AMD's matrix cores included, and
            TPUs' arrays in six passes of bf16); ``tf32`` is a matrix rate of its own.
        engine : str, optional
            matrix, vector or special. Default: the faster of matrix and vector for this dtype. The vector and
            special engines compute formats without a rate of their own in fp32, at its rate, as elementwise
            kernels do.

        Raises
        ------
        NoRateError
            If the device has no such rate; the message says which it has.
        UnknownNameError
            If there is no such dtype or engine.
        """
        return self._peak(dtype, engine).stated

    @typed
    def boost_peak(self, dtype: str, engine: str | None = None) -> float:
        """Return the rate of `peak` at the highest known boost clock [FLOP/s].

        Lower bounds use it, so for an assumed rate it is the highest plausible one.

        Parameters
        ----------
        dtype, engine : str
            See `peak`.

        Raises
        ------
        UnavailableError, UnknownNameError
            See `peak`.
        """
        return self._peak(dtype, engine).boost

    @typed
    def product_peak(self, dtype: str) -> float:
        """Return the rate of products with fp32 accumulation, as libraries use it [FLOP/s].

        Tensor cores do so at their stated rate, CUDA cores at no more than fp32's: on a P100 cuBLAS's 16-bit
        products run at 9 to 10 TFLOP/s, not at the 19 to 21 of 16-bit accumulation.

        Parameters
        ----------
        dtype : str
            Format of the factors.

        Raises
        ------
        UnavailableError, UnknownNameError
            See `peak`.
        """
        wide = self.engine(dtype) == "matrix" or find_dtype(dtype).bytes >= _SUM_BYTES
        return self.peak(dtype) if wide else min(self.peak(dtype), self.peak("fp32", "vector"))

    def has(self, dtype: str, engine: str | None = None) -> bool:
        """Return whether the device has a rate for a dtype and (if given) an engine; see `peak`.

        Raises
        ------
        UnknownNameError
            If there is no such dtype or engine at all.
        """
        return bool(self._known(dtype, engine))

    def _peak(self, dtype: str, engine: str | None) -> _Peak:
        found = self._known(dtype, engine)
        if not found:
            raise self._has_no(find_dtype(dtype).name, engine)
        return _Peak(max(peak.stated for peak in found), max(peak.boost for peak in found))

    def _known(self, dtype: str, engine: str | None) -> list[_Peak]:
        """Return the rates of a format: of one engine, or of matrix and vector."""
        name = find_dtype(dtype).name
        if engine is None:
            tables = (self._peaks["matrix"], self._peaks["vector"])
            return [table[name] for table in tables if name in table]
        if engine not in ENGINES:
            raise unknown_name("engine", engine, ENGINES)
        table = self._peaks[engine]
        in_fp32 = engine != "matrix" and name not in table and name != "fp64"
        return [table[key] for key in ("fp32" if in_fp32 else name,) if key in table]

    def _has_no(self, dtype: str, engine: str | None) -> NoRateError:
        has = self.formats if engine is None else [name for name in DTYPES if name in self._peaks[engine]]
        where = f"{engine} rate" if engine else "rate"
        text = f"{self.name} has no {dtype} {where}; it has {', '.join(has) or 'none'}"
        return NoRateError(text, instead=self.native_16bit or "fp32")

    @cached_property
    def formats(self) -> tuple[str, ...]:
        """Formats for which the matrix or the vector engine has a rate, widest first."""
        return tuple(name for name in DTYPES if self.has(name))

    @cached_property
    def matrix_dtypes(self) -> tuple[str, ...]:
        """Formats for which the matrix engine has a rate, widest first."""
        return tuple(name for name in DTYPES if name in self._peaks["matrix"])

    def engine(self, dtype: str) -> str:
        """Return the engine of products in a dtype: ``matrix``, or ``vector`` if that has no rate.

        Raises
        ------
        UnknownNameError
            If there is no such dtype at all.
        """
        return "matrix" if find_dtype(dtype).name in self.matrix_dtypes else "vector"

    @cached_property
    def native_16bit(self) -> str | None:
        """``bf16``, else ``fp16``, or None if 16-bit formats are not faster than fp32."""
        fp32 = self._peaks["vector"].get("fp32")
        for name in ("bf16", "fp16"):
            vector = self._peaks["vector"].get(name)
            if name in self._peaks["matrix"] or (vector and fp32 and vector.stated > 1.5 * fp32.stated):
                return name
        return None

    @typed
    def ridge(self, dtype: str) -> float:
        """Return the arithmetic intensity [FLOP/B] above which work in `dtype` is compute-bound.

        Raises
        ------
        UnavailableError, UnknownNameError
            See `peak`.
        """
        return self.peak(dtype) / self.hbm_bandwidth

    # Memory

    @cached_property
    def hbm_bandwidth(self) -> float:
        """Bandwidth of the main memory [B/s]."""
        return self.spec.memory.hbm.bandwidth.si

    @cached_property
    def graphics_memory(self) -> bool:
        """Whether the main memory is GDDR; passes reach another share of its bandwidth than of HBM's."""
        return self.spec.graphics_memory

    @cached_property
    def hbm_capacity(self) -> float:
        """Nominal size of the main memory [B]."""
        return self.spec.memory.hbm.capacity.si

    @cached_property
    def l2_capacity(self) -> float:
        """Size of the L2 cache [B]; 0 if there is none, or if it is not known."""
        return _capacity(self.spec.memory.l2)

    @cached_property
    def l2_bandwidth(self) -> float | None:
        """Bandwidth of the L2 cache [B/s], or None if no source states it."""
        level = self.spec.memory.l2
        return level.bandwidth.si if level and level.bandwidth else None

    @cached_property
    def llc_capacity(self) -> float:
        """Size of the largest cache, L2 or L3 [B]."""
        return max(self.l2_capacity, _capacity(self.spec.memory.l3))

    @cached_property
    def llc_distinct(self) -> float:
        """Capacity of the largest cache for data that units all over the device read [B].

        If the cache is partitioned, each partition keeps a copy of what its units read, so this is the
        capacity of one partition (``l2_partitions`` in ``families.yaml``).
        """
        family = families().get(self.family)
        return self.llc_capacity / (family.l2_partitions if family else 1)

    @cached_property
    def shared_per_unit(self) -> float:
        """Software-managed memory of one unit [B]: shared memory, LDS, VMEM, SRAM; for a CPU core its L2."""
        memory = self.spec.memory
        whole = memory.vmem or memory.sram
        if whole is None and self.spec.units.kind == "core":
            whole = memory.l2
        return _capacity(memory.shared) or _capacity(whole) / self.units

    @cached_property
    def registers_per_unit(self) -> float:
        """Register file of one unit [B], 0 if not known."""
        return _capacity(self.spec.memory.registers)

    @cached_property
    def onchip_capacity(self) -> float:
        """Memory available to a persistent kernel's data [B]: units × (shared + registers)."""
        return self.units * (self.shared_per_unit + self.registers_per_unit)

    # Latency, links, power

    @cached_property
    def launch_s(self) -> float:
        """Shortest time from one kernel to the next in a replayed graph [s]; mostly assumed."""
        return self.spec.latency.launch.si

    @cached_property
    def step_s(self) -> float:
        """Time of a dependent step inside a kernel, which synchronises all units [s]; mostly assumed."""
        return self.spec.latency.step.si

    @cached_property
    def link_bandwidth(self) -> float | None:
        """One-way bandwidth of the fastest kind of link within a node, all its links together [B/s]."""
        kind = self.spec.fastest_link
        link = self.spec.links[kind].oneway if kind else None
        return link.si if link else None

    @cached_property
    def joined(self) -> int:
        """Number of devices that the fastest kind of link joins: 8, unless the spec says more."""
        kind = self.spec.fastest_link
        return (self.spec.links[kind].joins if kind else None) or 8

    @cached_property
    def sum_bandwidth(self) -> float | None:
        """Effective one-way bandwidth of an all-reduce's messages in a lower bound [B/s].

        An all-reduce sends nearly every number twice. If the link's switch adds, sending once may suffice, so
        the bound takes half the time.
        """
        doubled = 2.0 if self.switch_sums else 1.0
        return doubled * self.link_bandwidth if self.link_bandwidth else None

    @cached_property
    def switch_sums(self) -> float:
        """Share of the link bandwidth that sums in the switch reach, relative to copies; 0 without sums."""
        kind, family = self.spec.fastest_link, families().get(self.family)
        return family.switch_sums if kind and family and self.spec.links[kind].sums else 0.0

    @cached_property
    def tdp_w(self) -> float | None:
        """Power limit of the board or module [W]."""
        return self.spec.power.tdp.si if self.spec.power.tdp else None

    # Provenance

    @cached_property
    def quantities(self) -> dict[str, Quantity | Count]:
        """Every figure by its dotted path, such as ``memory.hbm.bandwidth``."""
        return {".".join(path): figure for path, figure in quantities(self.spec)}

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Names of figures that the spec lacks."""
        known = {name for name, path in _OPTIONAL.items() if path in self.quantities}
        if self.shared_per_unit:  # VMEM or SRAM counts as shared memory
            known.add("shared_per_unit")
        if self.link_bandwidth:
            known.add("link")
        return tuple(name for name in _OPTIONAL if name not in known)

    @cached_property
    def assumed(self) -> tuple[str, ...]:
        """Paths of the assumed figures, each of which has a range and a reason."""
        return tuple(path for path, figure in self.quantities.items() if figure.status == "assumed")

    @cached_property
    def spec_hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the spec's content."""
        content = self.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    # What if

    @typed
    def replace(self, **changes: str | float) -> Device:
        """Return a device with some figures changed: ``replace(hbm="6 TB/s", power="500 W")``.

        Parameters
        ----------
        **changes : str or float
            Quantities with units, or multiples of the present value (``"2x"``): ``hbm``, ``l2_bandwidth``,
            ``link`` (the fastest within a node, one way), ``network`` (to other nodes, one way) [B/s];
            ``hbm_capacity``, ``l2``, ``l3``, ``shared``, ``registers`` [B]; ``launch``, ``step`` [s];
            ``power`` [W]; ``clock`` [Hz] and ``units`` (a number), which scale every rate; a dtype
            (``bf16="1.2 PFLOP/s"``) for its rate, taken as it is. ``network`` leaves the device's name and
            its constants as they are.

        Raises
        ------
        UnknownNameError
            If there is no such figure.
        SpecError
            If a value is not a quantity of the right kind, or impossible.
        """
        return Device(whatif.changed(self.spec, changes), self.calibration)


def _capacity(level: Level | None) -> float:
    return level.capacity.si if level else 0.0
