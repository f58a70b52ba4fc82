"""One device's share of the layers of a mixture of experts: heads and inner width cut, experts spread.

Attention and plain feed-forward layers are cut over `tensor` devices (Shoeybi et al., arXiv 1909.08053,
§3), what lies between them by positions (Korthikanti et al., arXiv 2205.05198, §4.2.2). A mixture of
experts is not cut: each of these devices sends its own positions' tokens to whole experts, that are
spread over devices of their own number (Liu et al., arXiv 2504.14960, §3: folded, expert tensor
parallelism 1). Products that make latents of queries and keys, routers and shared experts are whole on
every device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.errors import UnavailableError
from costmodel.layers import Layer
from costmodel.layers._devices import exchange
from costmodel.layers.expert_parallel import ExpertParallel
from costmodel.models._blocks import B, N, Use
from costmodel.models._fields import Fields
from costmodel.models._model import Model
from costmodel.models._part import Part
from costmodel.models.architecture import Architecture
from costmodel.models.stack import Stack, again
from costmodel.symbols import ceil_div, symbols

P, NODE, M, COLS = symbols("devices node m n")
#: Families whose layers are cut as said here, by one of their types.
CUT = ("llama", "deepseek_v3")
#: Fields that are cut over the devices of a layer.
WIDTHS = ("heads", "kv_heads", "d_ff")


@dataclass(frozen=True, kw_only=True)
class _Positions(Layer):
    """Rows of all positions from each device's part of them, or sums of them to each its part."""

    name: ClassVar[str] = "positions"
    family: ClassVar[str] = "many devices"
    source: ClassVar[str] = "Korthikanti et al., arXiv 2205.05198, §4.2.2: g and its conjugate"
    not_counted: ClassVar[str] = "gathering the input again for the weights' gradient, hidden behind products"
    required: ClassVar[tuple[str, ...]] = ("m", "n", "devices", "node")

    gather: bool = True

    def _collective(self, gather: bool) -> tuple[Phase, ...]:
        size = self.bytes * M * COLS
        return (exchange(self, "positions", "all-gather" if gather else "reduce-scatter", size),)

    def forward(self) -> tuple[Phase, ...]:
        """All-gather, or reduce-scatter."""
        return self._collective(self.gather)

    def backward(self) -> tuple[Phase, ...]:
        """The other of the two."""
        return self._collective(not self.gather)

    def tensors(self) -> Tensors:
        """Rows of all positions, and one device's part of them."""
        return Tensors(inputs=self.bytes * M * COLS, outputs=ZERO)

    def kept(self) -> sp.Expr:
        """Nothing: what comes out is kept by what it goes into."""
        return ZERO


@dataclass(frozen=True)
class Kind:
    """One kind of layer of a model, as one device runs it.

    Attributes
    ----------
    count : int
        Layers of this kind.
    layer : Stack
        One such layer. Its sizes: `batch`, `seq`; `devices` that experts are spread over, `node` of them
        in a node.
    """

    count: int
    layer: Stack

    def model(self, direction: str, *, recompute: str = "none") -> Model:
        """Return one such layer."""
        return Model(
            title="layer",
            parts=self.layer.layer,
            inputs=ZERO,
            outputs=ZERO,
            direction=direction,
            dtype=self.layer.layer[0].layer.dtype,
            again=again((self.layer,), recompute),
        )

    @property
    def spread(self) -> sp.Expr:
        """Learned numbers that a device has of one such layer, and the others of the `devices` have not."""
        layers = ((part, part.layer) for part in self.layer.layer)
        return sp.Add(*(p.expression(of.spread()) for p, of in layers if isinstance(of, ExpertParallel)))


def kinds(architecture: Architecture, *, dtype: str, tensor: int, node: int) -> tuple[Kind, ...]:
    """Return the kinds of layers of a mixture of experts, one device's share of each, in their order.

    Parameters
    ----------
    architecture : Architecture
        The model.
    dtype : str
        Format of weights and activations.
    tensor : int
        Devices that share a layer.
    node : int
        Of these, how many sit in one node.

    Raises
    ------
    UnavailableError
        If the model has no experts, or layers of which it is not known how they are cut.
    """
    types = architecture.family.types
    if not getattr(architecture.fields, "experts", 0) or not any(known in types for known in CUT):
        raise UnavailableError(
            f"{architecture.name}: is no mixture of experts that can be planned (Mixtral, Qwen-MoE, DeepSeek)"
        )
    use, fields = Use("training", dtype), _cut(architecture.fields, tensor)
    stacks = [item for item in architecture.family.parts(fields, use) if isinstance(item, Stack)]
    found = []
    for stack in stacks:
        parts = tuple(_shared_out(stack.layer, fields.d_model, tensor, node))
        found.append(Kind(int(stack.times), Stack(parts, sp.Integer(1))))
    return tuple(found)


def _cut(fields: Fields, tensor: int) -> Fields:
    """Return the fields with the heads and the inner width of one device."""
    cut = {name: getattr(fields, name) // tensor for name in WIDTHS if hasattr(fields, name)}
    return fields.replaced(**cut)


def _shared_out(parts: tuple[Part, ...], width: int, tensor: int, node: int) -> Iterator[Part]:
    """Yield the parts on one device, and an exchange wherever own positions and all of them meet."""
    all_of_them = False
    for part in parts:
        if _of_positions(part, width) == all_of_them and tensor > 1:
            all_of_them = not all_of_them
            layer = _Positions(dtype=part.layer.dtype, gather=all_of_them)
            rows = {"m": B * N, "n": width, "devices": tensor, "node": min(tensor, node)}
            yield Part.of("positions", layer, **rows)
        yield part if all_of_them else _sliced(part, tensor)


def _of_positions(part: Part, width: int) -> bool:
    """Return whether a device runs it for its own positions only: norms and sums of rows, mixtures."""
    sizes = dict(part.sizes)
    between = part.layer.name in ("norm", "elementwise") and sizes["n"] == width
    return between or part.layer.name == "moe" or part.name == "shared expert"


def _sliced(part: Part, tensor: int) -> Part:
    """Return a part for one device's positions; a mixture with its experts spread over devices."""
    own = {N: ceil_div(N, sp.Integer(tensor))}
    sizes = {name: value.xreplace(own) for name, value in part.sizes}
    if part.layer.name != "moe":
        return dataclasses.replace(part, sizes=tuple(sizes.items()))
    layer = ExpertParallel(**part.layer.options)
    spread = Part.of(part.name, layer, **sizes, devices=P, node=NODE)
    return dataclasses.replace(spread, extra=part.extra)
