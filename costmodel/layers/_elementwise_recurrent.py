"""Recurrent layers whose recurrence is elementwise: all products run first, at once, then a scan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.errors import CostmodelError
from costmodel.layers._base import Layer
from costmodel.layers._kernels import gemm
from costmodel.layers._phases import one_step_at_a_time
from costmodel.layers._scan import COMBINE_DEPTH, SCANS, recurrence, scan_phase
from costmodel.symbols import symbols

B, T, H, I, L, C = symbols("batch seq hidden input num_layers block")


@dataclass(frozen=True)
class Gates:
    """A cell's arithmetic per unit and position, without products, biases and the scan itself.

    Attributes
    ----------
    matrices : int
        Number of products with the input.
    biased : int
        How many of them have a bias.
    vector, special : int
        Pointwise arithmetic forward [FLOP]: on the vector engine; σ and tanh.
    vector_back : int
        Pointwise vector arithmetic backward [FLOP], from the kept values.
    kept : int
        Values kept for backward, besides the input.
    before, after : int
        Dependent operations forward before the first step of the scan (after the bias), and after
        its last step.
    before_back, after_back : int
        The same, backward.
    step, step_back : int
        Dependent operations of one step of the scan, forward and backward.
    special_back : int
        Pointwise arithmetic backward on the special-function units [FLOP], of values computed again.
    least_back : int
        Dependent operations backward however short the sequence is: those that wait for no gradient.
    """

    matrices: int
    biased: int
    vector: int
    special: int
    vector_back: int
    kept: int
    before: int
    after: int
    before_back: int
    after_back: int
    step: int = COMBINE_DEPTH
    step_back: int = COMBINE_DEPTH
    special_back: int = 0
    least_back: int = 0


@dataclass(frozen=True, kw_only=True)
class _ElementwiseRecurrent(Layer):
    """A stack of layers h_t = a_t ∘ h_{t−1} + b_t, where a and b depend on the input alone.

    Parameters
    ----------
    bias : bool
        One bias vector for each gate that has a bias.
    algorithm : str
        Scan algorithm: ``sequential`` (a loop in registers, one thread per lane), ``kogge-stone``,
        ``blelloch``, ``brent-kung``, ``chunked`` (in chunks of `block`).
    generation : bool
        Autoregressive generation, where each input depends on the output before: every step launches
        every kernel, with products of a single position. Otherwise (teacher-forced training, prefill)
        all positions are processed at once.
    """

    family: ClassVar[str] = "recurrent"
    not_counted: ClassVar[str] = (
        "dropout, writing values for a backward pass, "
        "arithmetic in log space that some parallel scans use for stability"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "hidden")
    defaults: ClassVar[dict[str, str | int]] = {"input": "hidden", "num_layers": 1, "block": 64}
    gates: ClassVar[Gates]

    bias: bool = True
    algorithm: str = "sequential"
    generation: bool = False

    def __post_init__(self) -> None:
        """Check the algorithm, and that generation is forward only."""
        super().__post_init__()
        self.check_options(algorithm=SCANS)
        self.check_forward_only("generation", chosen=self.generation)
        if self.generation and self.algorithm != "sequential":
            raise CostmodelError(
                f"{self.name}: algorithm {self.algorithm} needs generation=false: "
                "each input depends on the previous output, so there is nothing to scan"
            )

    # -- sizes -----------------------------------------------------------------------------

    @property
    def cell(self) -> Gates:
        """The cell's arithmetic under the layer's options."""
        return self.gates

    @property
    def first_width(self) -> sp.Expr:
        """Width of the first layer's input."""
        return I

    @property
    def taps(self) -> sp.Expr:
        """Number of input positions that each product covers."""
        return ONE

    @property
    def skips(self) -> int:
        """1 if the input itself enters the output (a highway) and is read again, else 0."""
        return 0

    def _layers(self) -> tuple[tuple[str, sp.Expr, sp.Expr], ...]:
        """(label, input width, number of layers): the first layer, and the rest."""
        return (("layer 1", self.first_width, ONE), ("layers 2…L", H, L - 1))

    @property
    def peepholes(self) -> int:
        """Number of peephole vectors: the state is multiplied by one of them on its way into a gate."""
        return 0

    @property
    def vectors(self) -> int:
        """Number of learned vectors besides biases."""
        return self.peepholes

    @property
    def blocks(self) -> sp.Expr:
        """Number of blocks on the diagonal of each matrix; outside of them it is zero."""
        return ONE

    @property
    def biases(self) -> int:
        """Number of bias vectors of one layer."""
        return self.cell.biased if self.bias else 0

    def parameters(self) -> sp.Expr:
        """Σ_l (matrices · taps · I_l · H) over the number of blocks, biases and other vectors."""
        cell = self.cell
        weights = sum(cell.matrices * self.taps * width * H * count for _, width, count in self._layers())
        return weights / self.blocks + L * H * (self.biases + self.vectors)

    # -- phases ----------------------------------------------------------------------------

    def _products(self, role: str) -> list[Phase]:
        """Return the products over all positions, for each layer: forward, or one of their gradients."""
        phases, w, g = [], self.bytes, self.blocks
        for which, width, count in self._layers():
            inner, outer = self.taps * width, self.cell.matrices * H
            if role == "input product":
                phase = gemm(self, f"{role}, {which}", m=B * T, n=outer / g, k=inner / g, batch=g)
                # Overlapping windows are read once for all positions; generation reads earlier taps again.
                positions = T + self.taps - 1 if self.generation else T
                # The stacked layers reuse one buffer.
                place = w * B * T * outer if count == ONE else ZERO
                phase = replace(phase, read=w * (B * positions * width + inner * outer / g), workspace=place)
            elif role == "input gradient":
                phase = gemm(self, f"{role}, {which}", m=B * T, n=inner / g, k=outer / g, batch=g)
                # The highway's gradient is already in memory, and is read.
                read = phase.read + self.skips * w * B * T * width
                phase = replace(phase, read=read, write=w * B * T * width)
            else:
                phase = gemm(self, f"{role}, {which}", m=outer / g, n=inner / g, k=B * T, batch=g)
                # The bias gradients are summed while the product reads the gate gradients.
                sums = {("vector", self.accumulate): B * T * H * self.biases} if self.biases else {}
                phase = replace(
                    phase,
                    flops={**phase.flops, **sums},
                    read=w * B * T * (outer + width),
                    write=phase.write + w * H * self.biases,
                )
            phases.append(replace(phase, repeats=count))
        return phases

    def _recurrence(
        self, name: str, *, reads: int, writes: int, vector: int, special: int, step: int, around: int
    ) -> Phase:
        """Return the pointwise work and the scan of one layer; `reads` and `writes` are per unit and step."""
        flops, steps = recurrence(self.algorithm, T, C)
        lanes, w = B * H, self.bytes
        back = "backward" in name
        # Backward starts at the end, where the first step has no gradient to wait for.
        waits = steps - 1 if back and self.algorithm == "sequential" else steps
        # Forward reads all learned vectors; backward reads all but biases, and writes their gradients.
        read_once = self.vectors + (0 if back else self.biases)
        depth = waits * step + around
        return replace(
            scan_phase(
                self,
                name,
                chains=lanes,
                steps=steps,
                vector=lanes * (flops + T * vector),
                special=lanes * T * special,
                read=w * (lanes * T * reads + H * read_once),
                write=w * (lanes * T * writes + (H * self.vectors if back else 0)),
                pram_depth=sp.Max(self.cell.least_back, depth) if back and self.cell.least_back else depth,
                # Backward also holds the gate gradients. A stack holds one more sequence, between two layers.
                workspace=w * lanes * T * (sp.Min(1, L - 1) + (self.cell.matrices if back else 0)),
            ),
            repeats=L,
        )

    def forward(self) -> tuple[Phase, ...]:
        """The input product, then one kernel for gates, scan and output, layer by layer."""
        cell, alone = self.cell, int(self.generation)
        added = int(self.bias and not self.peepholes)  # with peepholes it is added in parallel to v∘c
        one = self._recurrence(
            "recurrence",
            # A single step also reads the state, and writes it unless the state is the output.
            reads=cell.matrices + self.skips + alone,
            writes=1 + alone * int(cell.after > 0),
            vector=cell.vector + self.biases,
            special=cell.special,
            step=cell.step,
            around=added + cell.before + cell.after,
        )
        phases = (*self._products("input product"), one)
        return one_step_at_a_time(phases) if self.generation else phases

    def backward(self) -> tuple[Phase, ...]:
        """One kernel for the reverse scan and the gate gradients, then two products per forward product."""
        cell = self.cell
        one = self._recurrence(
            "recurrence, backward",
            reads=cell.kept + 1 + self.skips,
            writes=cell.matrices + self.skips,
            vector=cell.vector_back,
            special=cell.special_back,
            step=cell.step_back,
            around=cell.before_back + cell.after_back,
        )
        return (one, *self._products("input gradient"), *self._products("weight gradient"))

    # -- operands --------------------------------------------------------------------------

    def tensors(self) -> Tensors:
        """The input sequence; all weights; the output sequence of the last layer."""
        return Tensors(
            inputs=self.bytes * B * T * self.first_width,
            weights=self.bytes * (self.parameters() - L * H * self.biases),
            offsets=self.bytes * L * H * self.biases,
            outputs=self.bytes * B * T * H,
            kept_outputs=self.bytes * B * T * H if self.cell.after == 0 else ZERO,
        )

    def kept(self) -> sp.Expr:
        """The input of every layer, and per unit and position the values that the gradients need."""
        between = ZERO if self.cell.after == 0 else (L - 1) * H  # 0: the state is the output, and kept
        return self.bytes * B * T * (self.first_width + between + L * self.cell.kept * H)

    def path(self) -> sp.Expr:
        """Return n: the first position reaches the last through every step of the recurrence."""
        return T
