"""The base of models for training: layers between an embedding and logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from costmodel.arguments import typed
from costmodel.dtypes import dtype as find_dtype
from costmodel.errors import unknown_name
from costmodel.evaluate import as_whole
from costmodel.layers.megatron import ATTENTION
from costmodel.models._blocks import Use, embedding, logits, with_extra
from costmodel.models._model import Model
from costmodel.models.shares import Ends, Kind, ends
from costmodel.symbols import GLOSSARY


@typed
@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A stack of layers between an embedding and logits; `Transformer` and `Layered` define the layers.

    Parameters
    ----------
    num_layers, d_model, vocab : int
        Sizes of the model.
    attention : str
        ``dense`` (stored scores) or ``tiled`` (FlashAttention-2).
    tied : bool
        Whether logits and embedding share their weights.
    dtype : str
        Format of weights, activations and gradients.
    embedded : int, optional
        Width of the embedding and of the logits' input, if it is narrower than the layers and projected
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
        self._check_sizes("num_layers", "d_model", "vocab", "embedded")
        if self.attention not in ATTENTION:
            raise unknown_name("attention of a model", self.attention, ATTENTION)
        find_dtype(self.dtype)

    def _check_sizes(self, *names: str) -> None:
        """Check the sizes that are given, and keep them as Python's: NumPy's small integers overflow."""
        for name in names:
            value = getattr(self, name)
            if value is not None:
                largest = GLOSSARY["d_model" if name == "embedded" else name].largest
                object.__setattr__(self, name, int(as_whole(f"size {name}", value, largest)))

    @property
    def around(self) -> str:
        """Format of what is around the products; see `costmodel.dtypes.DType.around`."""
        return find_dtype(self.dtype).around.name

    @property
    def table_width(self) -> int:
        """Width of the embedding and of the logits' input."""
        return self.embedded or self.d_model

    @property
    def projected(self) -> int:
        """Size of the projection from the embedding, and of that to the logits; 0 if there is none."""
        return self.d_model * self.table_width if self.table_width != self.d_model else 0

    @property
    def divided(self) -> Mapping[str, int]:
        """The layer's units that tensor parallelism divides evenly: name → number."""
        raise NotImplementedError

    @property
    def experts(self) -> int:
        """Number of experts of a layer; 0 if it has none."""
        return 0

    @property
    def expert_width(self) -> int:
        """Inner width of an expert; 0 if there are no experts."""
        return 0

    @property
    def encodes(self) -> bool:
        """Whether the model has an encoder besides its decoder."""
        return False

    @property
    def alternates(self) -> bool:
        """Whether layers of different kinds alternate, so that every stage has a share of each kind."""
        return True

    @property
    def by_positions(self) -> bool:
        """Whether tensor parallelism always splits the operations between products by positions."""
        return False

    def kinds(
        self, tensor: int, node: int, expert_tensor: int = 1, *, sequence_parallel: bool = False
    ) -> tuple[Kind, ...]:
        """Return the kinds of layers, one device's share of each, in their order.

        Parameters
        ----------
        tensor : int
            Number of devices that share a layer.
        node : int
            Number of these devices in one node.
        expert_tensor : int
            Number of these devices that share each expert.
        sequence_parallel : bool
            Whether the operations between a layer's products are split by positions; see `by_positions`.
        """
        raise NotImplementedError

    def shares(self, most: int) -> list[int]:
        """Return the tensor-parallel sizes, up to `most`, that divide the layer evenly."""
        return [n for n in range(1, most + 1) if all(whole % n == 0 for whole in self.divided.values())]

    def around_layers(self) -> Ends:
        """Return the parts before the layers, and those after them."""
        use = Use("training", self.dtype)
        table, scores = (
            with_extra(part, self.projected)
            for part in (
                embedding(use, self.vocab, self.table_width, tied=self.tied),
                logits(use, self.vocab, self.table_width),
            )
        )
        return (table,), (scores,)

    def ends(self, tensor: int) -> tuple[Model, Model]:
        """Return what stands before the layers, and what stands after them, as one device runs it.

        Parameters
        ----------
        tensor : int
            Number of devices that share the tables of words.
        """
        return ends(self.around_layers(), dtype=self.dtype, tensor=tensor)
