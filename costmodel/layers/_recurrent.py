"""Stacks of recurrent layers whose recurrence contains a product, for any cell.

Each layer is an input product over all time steps at once, followed by a
recurrence of `seq` dependent steps, each a small product with the recurrent
weights and some pointwise arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.errors import CostmodelError
from costmodel.layers._base import DIRECTIONS, Layer
from costmodel.layers._kernels import gemm, stream
from costmodel.layers._phases import one_step_at_a_time
from costmodel.symbols import symbols, tree_depth

B, T, H, I, L, CHIP = symbols("batch seq hidden input num_layers onchip")


@dataclass(frozen=True)
class Cell:
    """Arithmetic of one step per hidden unit and sequence, without the products.

    Attributes
    ----------
    gates : int
        Number of gate matrices of the cell (g in the formulas).
    vector, special : int
        Pointwise arithmetic forward [FLOP], without adding biases; tanh and σ.
    vector_back, special_back : int
        The same, backward.
    kept : int
        Values that a unit keeps per step for backward.
    states : int
        Number of state vectors: h, and c for an LSTM.
    chain, chain_back : int
        Dependent pointwise operations of a step, forward (after the product,
        Wx and the bias are added) and backward (after the product).
    split_biases : int
        Number of gates whose two biases have different gradients: the GRU's
        candidate, whose second bias is inside r∘(…).
    """

    gates: int
    vector: int
    special: int
    vector_back: int
    special_back: int
    kept: int
    states: int
    chain: int
    chain_back: int
    split_biases: int = 0


@dataclass(frozen=True, kw_only=True)
class Recurrent(Layer):
    """A stack of recurrent layers.

    Parameters
    ----------
    bidirectional : bool
        Add a second recurrence that runs from the end; later layers read the outputs of both.
    bias : bool
        Two bias vectors per gate, as in torch and cuDNN.
    batch_first : bool
        The input is stored sequence by sequence, and is transposed first.
    persistent : bool or None
        Whether the recurrent weights stay on chip between steps: True; False
        (they are read again at each step); or None (on the command line: auto), where the part that
        does not fit into the device's on-chip memory is read again.
    wavefront : bool
        Layers overlap, each one step behind the one below: T + L − 1 steps.
    recurrent_only : bool
        The recurrence without its input product: an input of width `hidden` is added
        to every gate alike (cuDNN's CUDNN_SKIP_INPUT, as measured by
        DeepBench). It applies to every layer of a stack, where cuDNN skips the
        first layer's product only.
    generation : bool
        Autoregressive generation: input products of a single position, and
        one launch of every kernel per step. Otherwise (teacher-forced training) one input product
        for all positions. Either way each position needs a dependent pass through all layers.
    """

    family: ClassVar[str] = "recurrent"
    not_counted: ClassVar[str] = (
        "dropout between layers, packing of ragged batches, writing the gates for a backward pass"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "hidden")
    defaults: ClassVar[dict[str, str | int]] = {"input": "hidden", "num_layers": 1}
    directions: ClassVar[tuple[str, ...]] = (*DIRECTIONS, "bwd_data", "bwd_weights")
    cell: ClassVar[Cell]
    #: Bias vectors per gate: one for the input, one for the state.
    bias_vectors: ClassVar[int] = 2

    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    persistent: bool | None = None
    wavefront: bool = False
    recurrent_only: bool = False
    generation: bool = False

    def __post_init__(self) -> None:
        """Check the combination of options."""
        super().__post_init__()
        if self.generation and (self.direction != "fwd" or self.bidirectional or self.wavefront):
            got = f"{self.direction}, {self.bidirectional} and {self.wavefront}".lower()
            raise CostmodelError(
                f"{self.name}: generation needs direction=fwd, bidirectional=false, wavefront=false: "
                f"a step waits for the whole step before it; got {got}"
            )
        if self.wavefront and self.bidirectional:
            raise CostmodelError(
                f"{self.name}: wavefront needs bidirectional=false: a layer waits for the whole reverse pass"
            )

    # -- sizes -----------------------------------------------------------------------------

    @property
    def width(self) -> sp.Expr:
        """Width of one direction's output."""
        return H

    @property
    def ways(self) -> int:
        """Number of directions."""
        return 2 if self.bidirectional else 1

    def _inputs(self) -> tuple[tuple[str, sp.Expr, sp.Expr], ...]:
        """(label, input width, number of layers): the first layer, and the rest."""
        return (("layer 1", I, ONE), ("layers 2…L", self.ways * self.width, L - 1))

    def _recurrent_weights(self) -> sp.Expr:
        """Recurrent weights of one direction of one layer [elements]."""
        return self.cell.gates * H * self.width

    def parameters(self) -> sp.Expr:
        """Σ_l D·g·H(I_l + H + 2): input weights, recurrent weights, biases."""
        g, ways = self.cell.gates, self.ways
        total = L * ways * self._recurrent_weights() + self._biases()
        if not self.recurrent_only:
            total += sum(ways * g * H * width * count for _, width, count in self._inputs())
        return total

    # -- phases ----------------------------------------------------------------------------

    def phases(self) -> tuple[Phase, ...]:
        """Return the kernels of the layer's direction."""
        if self.direction == "bwd_data":
            return self._backward_data()
        if self.direction == "bwd_weights":
            return self._backward_weights()
        return super().phases()

    def forward(self) -> tuple[Phase, ...]:
        """Input products over all steps, then the recurrence, layer by layer."""
        g, products = self.cell.gates, []
        if self.batch_first:
            width = H if self.recurrent_only else I
            products.append(
                stream(self, "transpose input", rows=B * T, cols=width, reads=1, writes=1, depth=0)
            )
        if not self.recurrent_only:
            for which, width, count in self._inputs():
                product = gemm(self, f"input product, {which}", m=B * T, n=self.ways * g * H, k=width)
                products.append(replace(product, repeats=count))
        # The kernel reads pre-activations and states, and writes states. The values kept for backward are
        # written by every library's training forward, but are not part of the forward pass alone.
        states = self.cell.states
        pre = ONE * H if self.recurrent_only else g * H
        state = self._state(states)
        phases = (*products, self._recurrence("fwd", "recurrence", reads=pre + state, writes=state))
        return one_step_at_a_time(phases) if self.generation else phases

    def backward(self) -> tuple[Phase, ...]:
        """The data gradients, in one dependent pass; then the weight gradients, over all steps at once."""
        return self._backward_data() + self._backward_weights()

    def _backward_data(self) -> tuple[Phase, ...]:
        g, phases = self.cell.gates, []
        reads = self.cell.kept * H + self.width  # the kept values and the output's gradient
        phases.append(self._recurrence("bwd_data", "recurrence, backward", reads=reads, writes=g * H))
        if not self.recurrent_only:
            for which, width, count in reversed(self._inputs()):
                product = gemm(self, f"input gradient, {which}", m=B * T, n=width, k=self.ways * g * H)
                phases.append(replace(product, repeats=count))
        return tuple(phases)

    def _backward_weights(self) -> tuple[Phase, ...]:
        g, ways, phases = self.cell.gates, sp.Integer(self.ways), []
        if not self.recurrent_only:
            for which, width, count in self._inputs():
                product = gemm(self, f"input weight gradient, {which}", m=ways * g * H, n=width, k=B * T)
                phases.append(replace(product, repeats=count))
        # One product over all steps, timed as the library call that computes it.
        recurrent = replace(
            gemm(self, "recurrent weight gradient", m=g * H, n=self.width, k=B * T, batch=ways),
            kernel="recurrence",
            op=self.name,
            sizes={"steps": T, "batch": B, "hidden": H, "width": self.width, "parallel": ways},
            options={"dtype": self.dtype, "gates": g, "direction": "bwd_weights", "persistent": False},
        )
        if self.bias:
            # The bias gradients are summed while the product reads the gate gradients.
            different = g + self.cell.split_biases
            sums = {("vector", self.accumulate): ways * B * T * different * H}
            gradients = self.bytes * ways * self._bias_width()
            recurrent = replace(
                recurrent, flops={**recurrent.flops, **sums}, write=recurrent.write + gradients
            )
        return (*phases, replace(recurrent, repeats=L))

    def _biases(self) -> sp.Expr:
        """Bias values of all layers [elements]."""
        return L * self.ways * self._bias_width() if self.bias else ZERO

    def _bias_width(self) -> sp.Expr:
        """Bias values of one direction of one layer, as if it had biases [elements]."""
        return self.bias_vectors * self.cell.gates * H

    def _state(self, states: int) -> sp.Expr:
        """Width of the carried state: h, and c if the cell has one."""
        return self.width + (H if states == 2 else ZERO)

    def _chain_depth(self, direction: str) -> sp.Expr:
        """Depth of one step's arithmetic: the product, the addition of Wx (and bias), the cell."""
        if direction == "bwd_data":
            return tree_depth(self.cell.gates * H) + self.cell.chain_back
        return tree_depth(self.width) + 1 + (self.bias_vectors - 1 if self.bias else 0) + self.cell.chain

    def _recurrence(self, direction: str, name: str, *, reads: sp.Expr, writes: sp.Expr) -> Phase:
        """Return the recurrence of one layer, or of all layers as a wavefront.

        ``reads`` and ``writes`` are elements per step, direction and sequence.
        """
        cell, ways = self.cell, self.ways
        layers = L if self.wavefront else ONE
        weights = layers * ways * self._step_weights() * self.bytes
        again = {True: ZERO, False: weights, None: sp.Max(0, weights - CHIP)}[self.persistent]
        forward = direction == "fwd"
        products = T * self._step_weights()
        if self.convention == "torch" and not forward:
            products -= self._recurrent_weights()  # h0 needs no gradient: the first step computes none
        added = self.bias_vectors * cell.gates if self.bias else 0
        vector = cell.vector + added if forward else cell.vector_back
        special = cell.special if forward else cell.special_back
        biases = ways * self._bias_width() * self.bytes if self.bias and forward else ZERO
        flops = {
            ("matrix", self.dtype): 2 * B * ways * products * layers,
            ("vector", self.accumulate): T * B * ways * H * vector * layers,
            ("special", self.accumulate): T * B * ways * H * special * layers,
        }
        length = T + L - 1 if self.wavefront else T
        gates = ZERO if self.recurrent_only else layers * ways * cell.gates * H
        return Phase(
            name=name,
            kernel="recurrence",
            op=self.name,
            sizes={
                "steps": length,
                "batch": B,
                "hidden": H,
                "width": self.width,
                "parallel": ways * layers,
            },
            options={
                "dtype": self.dtype,
                "gates": cell.gates,
                "direction": direction,
                "persistent": self.persistent,
            },
            flops={key: sp.sympify(value) for key, value in flops.items() if value != 0},
            read=weights + (T - 1) * again + layers * (biases + T * B * ways * reads * self.bytes),
            write=layers * T * B * ways * writes * self.bytes,
            steps=length,
            pram_depth=length * self._chain_depth(direction),
            # A stack holds one more sequence: a layer's input, or its gradient, made by the adjacent layer.
            workspace=T * B * self.bytes * (gates + ways * self.width * sp.Min(1, L - 1)),
            repeats=ONE if self.wavefront else L,
        )

    def _step_weights(self) -> sp.Expr:
        """Weights that every step of one direction reads [elements]."""
        return self._recurrent_weights()

    # -- operands --------------------------------------------------------------------------

    def tensors(self) -> Tensors:
        """The input sequence; all weights; the output sequence of the last layer."""
        width = H if self.recurrent_only else I
        outputs = self.bytes * B * T * self.ways * self.width  # the last layer's states, kept for backward
        return Tensors(
            inputs=self.bytes * B * T * width,
            weights=self.bytes * (self.parameters() - self._biases()),
            offsets=self.bytes * self._biases(),
            outputs=outputs,
            kept_outputs=outputs,
        )

    def kept(self) -> sp.Expr:
        """The input; gates and states of every step and layer, including the later layers' inputs."""
        first = H if self.recurrent_only else I
        return self.bytes * B * T * (first + L * self.ways * self._kept_by_unit())

    def _kept_by_unit(self) -> sp.Expr:
        """Values that one direction of one layer keeps per step [elements]."""
        return self.cell.kept * H

    def path(self) -> sp.Expr:
        """Return n: the first position reaches the last through every step."""
        return T
