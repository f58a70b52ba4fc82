"""A Transformer for training: equal layers between an embedding and logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from costmodel.arguments import typed
from costmodel.errors import CostmodelError, SizeError, UnavailableError, unknown_name
from costmodel.layers import Layer, get
from costmodel.layers._kernels import NORMS, POINTWISE
from costmodel.models._blocks import Use
from costmodel.models.shares import Kind
from costmodel.models.stack import Stack
from costmodel.parallel.language_model import LanguageModel

if TYPE_CHECKING:
    from costmodel.models import Architecture


@typed
@dataclass(frozen=True, kw_only=True)
class Transformer(LanguageModel):
    """A decoder or an encoder of equal layers; see `LanguageModel`.

    Parameters
    ----------
    heads : int
        Number of attention heads.
    kv_heads, d_ff : int, optional
        Default `heads` and 4 `d_model`.
    head_dim : int, optional
        Default `d_model` / `heads`.
    gated : bool
        Whether the feed-forward layer has a third product (SwiGLU).
    activation : str, optional
        Activation of the feed-forward layer; default ``silu`` if gated, else ``gelu``.
    norm : str
        ``layer`` or ``rms``.
    causal, dropout : bool
        Causal mask; dropout after attention's probabilities and after both parts.
    """

    heads: int
    kv_heads: int | None = None
    d_ff: int | None = None
    head_dim: int | None = None
    gated: bool = False
    norm: str = "layer"
    causal: bool = True
    dropout: bool = False
    activation: str | None = None

    def __post_init__(self) -> None:
        """Check the sizes: heads fill the model's width, and key heads divide heads."""
        super().__post_init__()
        if self.norm not in NORMS:
            raise unknown_name("norm of a model", self.norm, NORMS)
        if self.activation is not None and self.activation not in POINTWISE:
            raise unknown_name("activation of a model", self.activation, POINTWISE)
        self._check_sizes("heads", "kv_heads", "d_ff", "head_dim")
        if self.heads % (self.kv_heads or self.heads):
            raise SizeError(
                f"model: heads must be a multiple of kv_heads, got {self.heads} and {self.kv_heads}"
            )
        if self.head_dim is None and self.d_model % self.heads:
            raise CostmodelError(
                f"model: {self.heads} heads do not divide d_model = {self.d_model}; give head_dim"
            )

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of one layer, by their names in the vocabulary."""
        return {
            "d_model": self.d_model,
            "heads": self.heads,
            "kv_heads": self.kv_heads or self.heads,
            "head_dim": self.head_dim or self.d_model // self.heads,
            "d_ff": self.d_ff or 4 * self.d_model,
        }

    @property
    def divided(self) -> Mapping[str, int]:
        """The heads."""
        return {"heads": self.heads}

    def shares(self, most: int) -> list[int]:
        """Return the tensor-parallel sizes that divide the key heads: larger ones would duplicate these."""
        return [n for n in range(1, most + 1) if self.sizes["kv_heads"] % n == 0]

    @classmethod
    def of(cls, architecture: Architecture, *, dtype: str = "bf16", attention: str = "tiled") -> Transformer:
        """Return a catalogue model as a stack of equal layers.

        The parameters are those of `costmodel.parallel.stack_of`.

        Raises
        ------
        UnavailableError
            If its layers differ, or are not attention to all positions and a feed-forward layer, each after
            a norm.
        """
        fields, types = architecture.fields, architecture.family.types
        known = [name for name in ("llama", "gpt2", "opt", "bert") if name in types]
        if (
            not known
            or getattr(fields, "experts", False)
            or _differs(architecture, gated=known[0] == "llama")
        ):
            raise UnavailableError(
                f"{architecture.name}: wanted equal layers of attention to all positions and a feed-forward "
                "layer, each after a norm (Llama, Qwen2, GPT, OPT, BERT)"
            )
        gated = known[0] == "llama"
        return cls(
            num_layers=fields.layers,
            d_model=fields.d_model,
            heads=fields.heads,
            kv_heads=getattr(fields, "kv_heads", None),
            head_dim=fields.head_dim,
            embedded=getattr(fields, "embedded", None),
            d_ff=fields.d_ff,
            vocab=fields.vocab,
            gated=gated,
            norm="rms" if gated else "layer",
            activation="relu" if getattr(fields, "type", None) == "opt" else None,
            causal=known[0] != "bert",
            tied=getattr(fields, "tied", True),
            attention=attention,
            dtype=dtype,
        )

    def kinds(
        self, tensor: int, node: int, expert_tensor: int = 1, *, sequence_parallel: bool = False
    ) -> tuple[Kind, ...]:
        """Return the only kind of layer, one device's share of it."""
        layer = partial(self.layer, sequence_parallel=sequence_parallel)
        sizes = {**self.sizes, "devices": tensor, "node": node}
        return (Kind(self.num_layers, layer, sizes, expert_tensor),)

    def layer(self, direction: str, *, recompute: str = "none", sequence_parallel: bool = False) -> Layer:
        """Return one layer, split across devices.

        Parameters
        ----------
        direction : {"fwd", "bwd", "fwd+bwd"}
            The pass.
        recompute : {"none", "selective", "full"}
            What backward recomputes.
        sequence_parallel : bool
            Whether the operations between its products are split by positions.

        Raises
        ------
        UnknownNameError
            If `recompute` has another value.
        """
        # Tiled attention stores no scores: it always does what selective recomputation would.
        again = "none" if self.attention == "tiled" and recompute == "selective" else recompute
        options: dict[str, Any] = {
            "attention": self.attention,
            "gated": self.gated,
            "norm": self.norm,
            "causal": self.causal,
            "dropout": self.dropout,
            "activation": self.activation or ("silu" if self.gated else "gelu"),
            "recompute": again,
            "sequence_parallel": sequence_parallel,
            "around": None if self.around == self.dtype else self.around,
        }
        return get("megatron")(dtype=self.dtype, direction=direction, **options)


def _differs(architecture: Architecture, *, gated: bool) -> bool:
    """Return whether a layer has a window, other norms than one for each half, or another inner layer."""
    kind, inner = ("rms", "swiglu") if gated else ("layer", "feed-forward")
    for item in architecture.family.parts(architecture.fields, Use("training")):
        if isinstance(item, Stack):
            names = Counter(part.layer.name for part in item.layer)
            norms = {part.layer.options["kind"] for part in item.layer if part.layer.name == "norm"}
            if names["norm"] != 2 or norms != {kind} or not names[inner] or names["sliding-window"]:
                return True
    return False
