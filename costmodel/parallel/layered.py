"""A model of the catalogue as it is trained on many devices: by its own layers, of one kind or several.

Recurrences and scans, decoders beside encoders, mixtures of experts: any model whose layers are known to be
shared (`costmodel.models.shares`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from costmodel.arguments import typed
from costmodel.errors import UnavailableError
from costmodel.models import Architecture
from costmodel.models.shares import Kind, kinds
from costmodel.parallel.language_model import LanguageModel
from costmodel.parallel.transformer import Transformer


@typed
@dataclass(frozen=True, kw_only=True)
class Layered(LanguageModel):
    """A model of the catalogue with the layers that it has; made by `of`. See `LanguageModel`.

    Parameters
    ----------
    architecture : Architecture
        The model.
    """

    architecture: Architecture

    @property
    def divided(self) -> Mapping[str, int]:
        """What its family says is divided."""
        cut, fields = self.architecture.family.cut, self.architecture.fields
        return {what: int(getattr(fields, name)) for name, what in cut.items()}

    @property
    def experts(self) -> int:
        """Experts of a layer; 0: it has none."""
        return int(getattr(self.architecture.fields, "experts", 0))

    @property
    def expert_width(self) -> int:
        """Inner width of an expert; 0: it has none."""
        return int(getattr(self.architecture.fields, "d_expert", 0)) if self.experts else 0

    @property
    def encodes(self) -> bool:
        """Whether it is a decoder beside an encoder."""
        return self.architecture.family.encodes

    @property
    def alternates(self) -> bool:
        """Whether layers of its kinds take turns."""
        return self.architecture.family.alternates

    @property
    def by_positions(self) -> bool:
        """Whatever is not divided is cut by positions."""
        return True

    @classmethod
    @typed
    def of(cls, architecture: Architecture, *, dtype: str = "bf16", attention: str = "tiled") -> Layered:
        """Return the stack of layers that a model of the catalogue is.

        Its parameters are those of `costmodel.parallel.stack_of`.

        Raises
        ------
        UnavailableError
            If it has no equal layers, or it is not known how they are shared.
        """
        found = kinds(architecture, dtype=dtype, tensor=1, node=1, attention=attention)
        c = architecture.fields
        return cls(
            architecture=architecture,
            num_layers=sum(kind.count for kind in found),
            d_model=c.d_model,
            vocab=c.vocab,
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
        sequence_parallel: bool = True,  # noqa: ARG002 - always: see `by_positions`
    ) -> tuple[Kind, ...]:
        """Return its kinds of layers, one device's share of each, in their order."""
        how = {"dtype": self.dtype, "attention": self.attention, "expert_tensor": expert_tensor}
        return kinds(self.architecture, tensor=tensor, node=node, **how)


@typed
def stack_of(architecture: Architecture, *, dtype: str = "bf16", attention: str = "tiled") -> LanguageModel:
    """Return the stack that a model of the catalogue is: a Transformer's equal layers, or its own.

    Parameters
    ----------
    architecture : Architecture
        As `costmodel.models.load` returns it.
    dtype : str
        Of weights, activations and gradients.
    attention : {"tiled", "dense"}
        Whether the scores stay on the chip.

    Raises
    ------
    UnavailableError
        See `Layered.of`.
    """
    try:
        return Transformer.of(architecture, dtype=dtype, attention=attention)
    except UnavailableError:
        return Layered.of(architecture, dtype=dtype, attention=attention)
