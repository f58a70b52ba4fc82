"""The spec of a device as it is written in ``<vendor>/<device>.yaml``."""

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
    """The processors of the device: what they are called, and how many are enabled.

    Attributes
    ----------
    kind : str
        SM (NVIDIA), CU (AMD), TensorCore (TPU), MME (Gaudi), XeCore, core.
    count : Count
        Of the whole of what the spec describes (``scope``).
    array : Count, optional
        Side of a TensorCore's systolic arrays, which products are padded to.
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
        At which the vendor states the matrix and the vector rates, where that is not
        ``boost``: the H100's tensor peak is quoted at 1830 MHz, its boost is 1980.
    max : Clock, optional
        The highest known to occur, where that is above ``boost``; of a board with graphics memory the
        driver's ceiling, towards which it raises its clock (`Device.raised`).
    """

    base: Clock | None = None
    boost: Clock
    matrix: Clock | None = None
    vector: Clock | None = None
    max: Clock | None = None


class Compute(Section):
    """Dense rates by engine and dtype [FLOP/s]; rates with structured sparsity do not belong here.

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
    """The main memory, whatever its technology; ``hbm`` in every name for short."""

    technology: Text
    capacity: Capacity
    bandwidth: Bandwidth


class Level(Section):
    """A memory on the chip: its capacity [B] and, where sourced, its bandwidth [B/s]."""

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
        Of one unit: the largest shared memory (NVIDIA) or LDS (AMD), and the register file.
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
    """Times that no FLOP and no byte explains [s].

    Attributes
    ----------
    launch : Time
        A kernel that does nothing, in a replayed graph of kernels.
    step : Time
        One dependent step inside a running kernel: a synchronisation of all its units.
    """

    launch: Time
    step: Time


class Link(Section):
    """A link to other devices or to the host.

    Attributes
    ----------
    oneway : Bandwidth, optional
        Sum over the device's links of this kind, in one direction.
    total : Bandwidth, optional
        The same, both directions, as vendors state it.
    form, topology : str, optional
        Such as "4.0 x16"; how devices are joined.
    sums : bool
        Whether the switch that joins them adds what comes through it, and sends one result to all: NVIDIA's
        NVSwitch from its third generation on ("NVIDIA H100 Tensor Core GPU Architecture", 2022).
    """

    oneway: Bandwidth | None = None
    total: Bandwidth | None = None
    form: Text | None = None
    topology: Text | None = None
    sums: bool = False


class Supply(Section):
    """Electrical power [W]: ``tdp`` is what the board or module may draw."""

    tdp: Power | None = None


class Spec(Section):
    """A device: every figure with its unit, source and status.

    Attributes
    ----------
    schema_version : int
        ``schema`` in the file.
    name : str
        ``vendor/device``, as the file is called.
    family : str
        Architecture family, a key of ``families.yaml``.
    scope : str
        What the figures are of: one GPU, a whole board of two, one die of two, a socket.
    aliases : tuple of str
        Other names of the same device, as tables of measurements use them.
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
        """The fastest kind of link within a node, all its links together; None if none is known.

        The network is a node's port to others: work that stays within one never crosses it.
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
