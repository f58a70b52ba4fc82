"""What every model that is trained has: layers between an embedding and its logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from costmodel.arguments import typed
from costmodel.dtypes import dtype as find_dtype
from costmodel.errors import unknown_name
from costmodel.evaluate import as_one_size
from costmodel.layers import Layer, get
from costmodel.layers.megatron import ATTENTION
from costmodel.models.shares import Kind


@typed
@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A stack of layers between an embedding and its logits; `Transformer` and `Layered` say which layers.

    Parameters
    ----------
    num_layers, d_model, vocab : int
        Its sizes.
    attention : str
        ``dense`` (stored scores) or ``tiled`` (FlashAttention-2).
    tied : bool
        Whether logits have the embedding's weights.
    dtype : str
        Of weights, activations and gradients.
    embedded : int, optional
        Width of the embedding and of what logits read, where it is narrower than the layers and projected
        (OPT-350M); default `d_model`.
    """

    num_layers: int
    d_model: int
    vocab: int
    attention: str = "tiled"
    tied: bool = True
    dtype: str = "bf16"
    embedded: int | None = None

    def __post_init__(self) -> None:
        """Check the sizes and the format."""
        for name in ("num_layers", "d_model", "vocab"):
            as_one_size(name, getattr(self, name))
        if self.embedded is not None:
            as_one_size("d_model", self.embedded)
        if self.attention not in ATTENTION:
            raise unknown_name("attention of a model", self.attention, ATTENTION)
        find_dtype(self.dtype)

    @property
    def table_width(self) -> int:
        """Width of the embedding and of what logits read."""
        return self.embedded or self.d_model

    @property
    def projected(self) -> int:
        """Numbers of the projection from the embedding, and of that to it; 0: there is none."""
        return self.d_model * self.table_width if self.table_width != self.d_model else 0

    @property
    def divided(self) -> Mapping[str, int]:
        """What devices that share a layer divide evenly among them, in words, and how many there are."""
        raise NotImplementedError

    @property
    def experts(self) -> int:
        """Experts of a layer; 0: it has none."""
        return 0

    @property
    def expert_width(self) -> int:
        """Inner width of an expert; 0: it has none."""
        return 0

    @property
    def encodes(self) -> bool:
        """Whether it is a decoder beside an encoder."""
        return False

    @property
    def alternates(self) -> bool:
        """Whether layers of its kinds take turns, so that every stage has its part of each."""
        return True

    @property
    def by_positions(self) -> bool:
        """Whether devices that share a layer always have positions of their own between its products."""
        return False

    def kinds(
        self, tensor: int, node: int, expert_tensor: int = 1, *, sequence_parallel: bool = False
    ) -> tuple[Kind, ...]:
        """Return its kinds of layers, one device's share of each, in their order.

        Parameters
        ----------
        tensor : int
            Devices that share a layer.
        node : int
            Of these, how many sit in one node.
        expert_tensor : int
            Of these, how many share each expert.
        sequence_parallel : bool
            Whether what lies between a layer's products is cut by positions; see `by_positions`.
        """
        raise NotImplementedError

    def shares(self, most: int) -> list[int]:
        """Return the numbers of devices, `most` at most, that a layer is worth sharing among."""
        return [n for n in range(1, most + 1) if all(whole % n == 0 for whole in self.divided.values())]

    def head(self) -> Layer:
        """Return the product with the vocabulary and its loss, forward and backward."""
        return get("logits")(dtype=self.dtype, direction="fwd+bwd", head="cross-entropy")  # type: ignore[call-arg]

    def ends(self) -> Layer:
        """Return the embedding, forward and backward."""
        return get("embedding")(dtype=self.dtype, direction="fwd+bwd")
