"""A catalogue model, with its own kinds of layers, for distributed training.

This covers recurrences and scans, encoder-decoders and mixtures of experts: every model for which
`costmodel.models.shares` defines how devices share its layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from costmodel.arguments import typed
from costmodel.errors import UnavailableError
from costmodel.models import Architecture
from costmodel.models.shares import Ends, Kind, around_layers, kinds
from costmodel.parallel.language_model import LanguageModel
from costmodel.parallel.transformer import Transformer


@typed
@dataclass(frozen=True, kw_only=True)
class Layered(LanguageModel):
    """A catalogue model with its own layers; made by `of`. See `LanguageModel`.

    Parameters
    ----------
    architecture : Architecture
        The model.
    """

    architecture: Architecture

    @property
    def divided(self) -> Mapping[str, int]:
        """The layer's units that the model family divides: name → number."""
        cut, fields = self.architecture.family.cut, self.architecture.fields
        return {what: int(getattr(fields, name)) for name, what in cut.items()}

    @property
    def experts(self) -> int:
        """Number of experts of a layer; 0 if it has none."""
        return int(getattr(self.architecture.fields, "experts", 0))

    @property
    def expert_width(self) -> int:
        """Inner width of an expert; 0 if there are no experts."""
        return int(getattr(self.architecture.fields, "d_expert", 0)) if self.experts else 0

    @property
    def encodes(self) -> bool:
        """Whether the model has an encoder besides its decoder."""
        return self.architecture.family.encodes

    @property
    def alternates(self) -> bool:
        """Whether layers of different kinds alternate."""
        return self.architecture.family.alternates

    @property
    def by_positions(self) -> bool:
        """True: everything that is not divided is split by positions."""
        return True

    @classmethod
    @typed
    def of(cls, architecture: Architecture, *, dtype: str = "bf16", attention: str = "tiled") -> Layered:
        """Return the stack of layers of a catalogue model.

        The parameters are those of `costmodel.parallel.stack_of`.

        Raises
        ------
        UnavailableError
            If it is no stack of layers, or it is not known how devices share them.
        """
        found = kinds(architecture, dtype=dtype, tensor=1, node=1, attention=attention)
        c = architecture.fields
        return cls(
            architecture=architecture,
            num_layers=sum(kind.count for kind in found),
            d_model=c.d_model,
            vocab=c.vocab,
            embedded=getattr(c, "embedded", None),
            tied=getattr(c, "tied", True),
            attention=attention,
            dtype=dtype,
        )

    def kinds(
        self,
        tensor: int,
        node: int,
        expert_tensor: int = 1,
        *,
        sequence_parallel: bool = True,  # noqa: ARG002 - always true: see `by_positions`
    ) -> tuple[Kind, ...]:
        """Return the kinds of layers, one device's share of each, in their order."""
        how = {"dtype": self.dtype, "attention": self.attention, "expert_tensor": expert_tensor}
        return kinds(self.architecture, tensor=tensor, node=node, **how)

    def around_layers(self) -> Ends:
        """Return the parts before and between the stacks of layers, and those after them."""
        return around_layers(self.architecture, dtype=self.dtype, attention=self.attention)


@typed
def stack_of(architecture: Architecture, *, dtype: str = "bf16", attention: str = "tiled") -> LanguageModel:
    """Return a catalogue model for training: a Transformer of equal layers if possible, else its own layers.

    Parameters
    ----------
    architecture : Architecture
        A model from `costmodel.models.load`.
    dtype : str
        Format of weights, activations and gradients.
    attention : {"tiled", "dense"}
        Whether the scores stay on chip or are stored.

    Raises
    ------
    UnavailableError
        See `Layered.of`.
    """
    try:
        return Transformer.of(architecture, dtype=dtype, attention=attention)
    except UnavailableError:
        return Layered.of(architecture, dtype=dtype, attention=attention)
