"""Schema of a device's spec (``<vendor>/<device>.yaml``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from costmodel.dtypes import DTYPES
from costmodel.errors import unknown_name
from costmodel.hardware.quantities import (
    Bandwidth,
    Capacity,
    Clock,
    Count,
    Power,
    Quantity,
    Rate,
    Section,
    Time,
)

Text = Annotated[str, Field(min_length=1)]


def _is_dtype(name: str) -> str:
    if name not in DTYPES:
        raise unknown_name("dtype", name, DTYPES)
    return name


Rates = dict[Annotated[str, AfterValidator(_is_dtype)], Rate]


class Units(Section):
    """The processors of the device: their kind, and how many are enabled.

    Attributes
    ----------
    kind : str
        SM (NVIDIA), CU (AMD), TensorCore (TPU), MME (Gaudi), XeCore, core.
    count : Count
        Number of enabled processors in everything that the spec describes (``scope``).
    array : Count, optional
        Side of a TensorCore's systolic arrays, to which products are padded.
    """

    kind: Literal["SM", "CU", "TensorCore", "MME", "XeCore", "core"]
    count: Count
    array: Count | None = None


class Clocks(Section):
    """Frequencies of the processors [Hz].

    Attributes
    ----------
    base, boost : Clock
        As the vendor states them.
    matrix, vector : Clock, optional
        Clock for which the vendor states the matrix and the vector rates, where that is not ``boost``: the
        H100's tensor peak is quoted at 1830 MHz, its boost is 1980.
    max : Clock, optional
        Highest clock known to occur, where that is above ``boost``; for a board with graphics memory the
        driver's ceiling, towards which it raises its clock (`Device.raised`).
    """

    base: Clock | None = None
    boost: Clock
    matrix: Clock | None = None
    vector: Clock | None = None
    max: Clock | None = None


class Compute(Section):
    """Dense rates by engine and dtype [FLOP/s]; rates with structured sparsity are not allowed.

    Attributes
    ----------
    matrix : dict of dtype to Rate
        Tensor cores, matrix cores, MXU, MME, AMX. 16-bit and narrower floats
        accumulate in fp32.
    vector : dict of dtype to Rate
        Everything that is not a matrix product.
    special : dict of dtype to Rate
        Transcendental functions, one result = 1 FLOP.
    """

    matrix: Rates = Field(default_factory=dict)
    vector: Rates = Field(default_factory=dict)
    special: Rates = Field(default_factory=dict)


class MainMemory(Section):
    """The main memory, called ``hbm`` for short in all names, whatever its technology."""

    technology: Text
    capacity: Capacity
    bandwidth: Bandwidth


class Level(Section):
    """A memory on the chip: its capacity [B] and, if a source states it, its bandwidth [B/s]."""

    capacity: Capacity
    bandwidth: Bandwidth | None = None


class Memory(Section):
    """Memory levels.

    Attributes
    ----------
    hbm : MainMemory
        Main memory.
    l2, l3 : Level, optional
        Caches, of the whole device.
    shared, registers : Level, optional
        Memories of one unit: the largest shared memory (NVIDIA) or LDS (AMD), and the register file.
    vmem, sram : Level, optional
        Software-managed memory of the whole device (TPU; Gaudi).
    """

    hbm: MainMemory
    l2: Level | None = None
    l3: Level | None = None
    shared: Level | None = None
    registers: Level | None = None
    vmem: Level | None = None
    sram: Level | None = None


class Latency(Section):
    """Latencies, which neither FLOPs nor bytes explain [s].

    Attributes
    ----------
    launch : Time
        Time of an empty kernel in a replayed graph of kernels.
    step : Time
        Time of a dependent step inside a running kernel: a synchronisation of all its units.
    """

    launch: Time
    step: Time


class Link(Section):
    """A link to other devices or to the host.

    Attributes
    ----------
    oneway : Bandwidth, optional
        Bandwidth of all the device's links of this kind together, in one direction.
    total : Bandwidth, optional
        The same in both directions, as vendors state it.
    form, topology : str, optional
        Generation and lanes, such as "4.0 x16"; how devices are connected.
    sums : bool
        Whether the switch between the devices can add what they send and return the sum to all: NVIDIA's
        NVSwitch from its third generation on ("NVIDIA H100 Tensor Core GPU Architecture", 2022).
    joins : int, optional
        Number of devices that it joins at this bandwidth, if these are more than a node's 8.
    """

    oneway: Bandwidth | None = None
    total: Bandwidth | None = None
    form: Text | None = None
    topology: Text | None = None
    sums: bool = False
    joins: Annotated[int, Field(gt=8)] | None = None


class Supply(Section):
    """Electrical power [W]: ``tdp`` is the limit of the board or module."""

    tdp: Power | None = None


class Spec(Section):
    """A device: every figure with its unit, source and status.

    Attributes
    ----------
    schema_version : int
        ``schema`` in the file.
    name : str
        ``vendor/device``, as in the file's path.
    family : str
        Architecture family, a key of ``families.yaml``.
    scope : str
        What the figures describe: one GPU, a whole board of two, one die of two, a socket.
    aliases : tuple of str
        Other names of the device, as used in tables of measurements.
    """

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    name: Annotated[str, Field(pattern=r"^[a-z0-9]+/[a-z0-9][a-z0-9.+-]*\*?$")]
    title: Text
    vendor: Text
    family: Text
    chip: Text
    year: Annotated[int, Field(strict=True)]
    scope: Text
    aliases: tuple[Text, ...] = ()
    units: Units
    clocks: Clocks
    compute: Compute
    memory: Memory
    latency: Latency
    links: dict[Text, Link] = Field(default_factory=dict)
    power: Supply = Supply()

    @property
    def graphics_memory(self) -> bool:
        """Whether the main memory is GDDR."""
        return self.memory.hbm.technology.startswith("GDDR")

    @property
    def fastest_link(self) -> str | None:
        """The kind of link with the highest total bandwidth within a node; None if none is known.

        ``network`` does not count: it is the port to other nodes.
        """
        known = {name: link.oneway.si for name, link in self.links.items() if link.oneway}
        known.pop("network", None)
        return max(known, key=known.__getitem__, default=None)


def quantities(spec: Spec) -> Iterator[tuple[tuple[str, ...], Quantity | Count]]:
    """Yield every figure of a spec with its path, such as ``("memory", "hbm", "bandwidth")``."""
    yield from _inside(spec, ())


def _inside(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Quantity | Count]]:
    if isinstance(value, Quantity | Count):
        yield path, value
    elif isinstance(value, Section | dict):
        for name, part in value.items() if isinstance(value, dict) else value:
            yield from _inside(part, (*path, name))
