"""A model's architecture: its sizes, from which the `Model` of each use is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy as sp

from costmodel.arguments import typed
from costmodel.cost import ZERO
from costmodel.dtypes import dtype as parse_dtype
from costmodel.errors import CostmodelError, SizeError, UnavailableError, unknown_name
from costmodel.evaluate import as_one_size
from costmodel.layers.optimizer_step import OptimizerStep
from costmodel.models._blocks import ATTENTION, B, N, S, Use
from costmodel.models._cache import cached
from costmodel.models._family import Family
from costmodel.models._fields import Fields
from costmodel.models._model import Model
from costmodel.models._part import Part
from costmodel.models._tensor_parallel import check_share, shared
from costmodel.models.stack import Stack, again

#: Bytes of a token's index.
TOKEN_BYTES = 8
#: Bytes of a loss.
LOSS_BYTES = 4


@typed
@dataclass(frozen=True, eq=False)
class Architecture:
    """A model's sizes and storage formats, from a configuration or the catalogue.

    Attributes
    ----------
    name : str
        The model's name.
    family : Family
        The family that defines its parts.
    fields : Fields
        Its sizes, by this package's names.
    origin : str
        Where its sizes are published.
    published : int or str, optional
        Number of parameters according to its publishers, or its first digits (``2.7B``).
    devices : int
        Number of devices of one node that serve it together; see `tensor_parallel`.
    weights, group, cache : str, int, str, optional
        Formats in which weights and caches are stored, if narrower than the compute format; see `storing`.
    context : int, optional
        The longest sequence that it is made for, by its configuration [tokens].
    inside : str
        Key of the language model in a configuration that also has other models; empty: it has none.
    """

    name: str
    family: Family
    fields: Fields
    origin: str = ""
    published: int | str | None = None
    devices: int = 1
    weights: str | None = None
    group: int | None = None
    cache: str | None = None
    context: int | None = None
    inside: str = ""

    @property
    def source(self) -> str:
        """Where its sizes are published, or else its family's source."""
        return self.origin or self.family.source

    @property
    def title(self) -> str:
        """The name, with the storage formats that are narrower than the compute format."""
        stored = (f"{what} in {kind}" for what, kind in self._formats(None).items())
        return ", ".join((self.name, *stored))

    @property
    def parameters_text(self) -> str:
        """The number of parameters in words, with the published number."""
        said = f"{self.published:,}" if isinstance(self.published, int) else self.published
        whose = " of the language model" if self.inside else ""
        return f"{self.parameters:,} parameters{whose}" + ("" if said is None else f" (published: {said})")

    @property
    def left_out(self) -> str:
        """What is not counted."""
        beside = f"; all beside {self.inside}, such as a vision model" if self.inside else ""
        return self.family.left_out + beside

    @typed
    def tensor_parallel(self, devices: int) -> Architecture:
        """Return one device's share of the model if `devices` devices of one node serve it together.

        Prefill, decoding, cache and parameters of the result are those of each device; sums over the devices
        are included (Shoeybi et al., arXiv 1909.08053, §3). For training, see `costmodel.parallel`.

        Parameters
        ----------
        devices : int
            The number of devices.

        Raises
        ------
        SizeError
            If its heads or widths do not divide evenly, or `devices` is not a whole number of at least 1.
        UnavailableError
            If it is not known how its layers are divided.
        """
        devices = as_one_size("devices", devices)
        check_share(self.name, self.family, self.fields, devices)
        return dataclasses.replace(self, devices=devices)

    @typed
    def storing(
        self, weights: str | None = None, *, group: int | None = None, cache: str | None = None
    ) -> Architecture:
        """Return the model with weights or caches stored in a narrower format than it computes in.

        Weight-only quantisation (GPTQ, AWQ: Frantar et al., arXiv 2210.17323; Lin et al., arXiv 2306.00978):
        products read the narrow numbers and widen them. Embeddings, the scores of words, routers and norms
        keep the compute format, and so does training.

        Parameters
        ----------
        weights : str, optional
            ``int8``, ``fp8``, ``int4`` or ``fp4``; default: unchanged.
        group : int, optional
            Numbers of a column that share a 2-byte scale; default: 128 for 4 bits, else the whole column.
        cache : str, optional
            Format of keys and values, or of latents: ``fp8``; default: unchanged.

        Raises
        ------
        UnknownNameError
            If a format is unknown.
        CostmodelError
            If a group is given without a format of weights.
        SizeError
            If a group has less than one weight.
        """
        if group is not None and weights is None:
            raise CostmodelError(
                "group: is the number of weights per scale; give the weights' format too, such as int4"
            )
        if group is not None and group < 1:
            raise SizeError(f"group: wanted at least 1 weight per scale, got {group}")
        found = self
        if weights is not None:
            found = dataclasses.replace(found, weights=parse_dtype(weights).name, group=group)
        return found if cache is None else dataclasses.replace(found, cache=parse_dtype(cache).name)

    # -- uses ------------------------------------------------------------------------------

    @typed
    def training(
        self,
        dtype: str = "bf16",
        *,
        attention: str = "tiled",
        optimizer: str | None = "adamw",
        recompute: str = "none",
    ) -> Model:
        """Return one step of training: forward, backward, and the optimiser's update.

        Sizes: `batch` sequences of `seq` tokens; an encoder's have `seq_kv`.

        Parameters
        ----------
        dtype : str
            Format of weights and activations. One of 8 bits or fewer is that of products with weights; what
            is around them has 16 bits (`costmodel.dtypes.DType.around`).
        attention : {"tiled", "dense", "eager"}
            Whether scores stay on the chip (``tiled``), go through memory (``dense``), or go through memory
            with separate kernels for mask and dropout (``eager``).
        optimizer : str, optional
            ``sgd``, ``momentum``, ``adam``, ``adamw``; None: gradients are computed but not applied.
        recompute : {"none", "selective", "full"}
            What backward recomputes instead of keeping it: with ``selective``, attention with stored scores,
            from Q, K and V; with ``full``, every layer, from its input.

        Raises
        ------
        UnknownNameError
            If the dtype, attention, optimizer or recomputation is unknown.
        UnavailableError
            For one device's share (`tensor_parallel`): use `costmodel.parallel.Training`.
        """
        if self.devices > 1:
            raise UnavailableError(
                f"{self.name}: for training on {self.devices} devices use `costmodel plan`"
            )
        use = Use("training", dtype, self._attention(attention))
        model = self._model(use, "training", "fwd+bwd")
        model = dataclasses.replace(model, again=again(self._stacks(use), recompute))
        if optimizer is None:
            return model
        step = OptimizerStep(dtype=dtype, optimiser=optimizer)
        return dataclasses.replace(model, updates=(Part.of("optimiser", step, params=self.parameters),))

    @typed
    def prefill(self, dtype: str = "bf16", *, attention: str = "tiled") -> Model:
        """Return one forward pass over whole sequences, with the scores of each sequence's next token.

        Sizes: `batch` sequences of `seq` tokens; an encoder's have `seq_kv`.

        Parameters
        ----------
        dtype : str
            Format of weights and activations; see `training`.
        attention : {"tiled", "dense", "eager"}
            See `training`.

        Raises
        ------
        UnknownNameError
            If the dtype or attention is unknown.
        """
        model = self._model(Use("prefill", dtype, self._attention(attention)), "prefill", "fwd")
        return self._stored(dataclasses.replace(model, leaves=self._left(dtype)))

    @typed
    def decode(self, dtype: str = "bf16") -> Model:
        """Return one decoding step: one new token of each sequence.

        Sizes: `batch` sequences of `seq_kv` tokens, the new one included; an encoder's have `seq`. A model
        without attention takes no length.

        Parameters
        ----------
        dtype : str
            Format of weights, activations and cache; see `training`.

        Raises
        ------
        UnavailableError
            If the model generates nothing (BERT).
        """
        if not self.family.decodes:
            raise UnavailableError(f"{self.name} does not generate tokens: it has prefill and training only")
        model = self._stored(self._model(Use("decode", dtype), "decode", "fwd"))
        if model.parameters() == self.parameters:
            return model
        # An encoder-decoder: the weights that only the pass before the first token reads.
        return dataclasses.replace(model, idle=self.prefill(dtype).held().learned - model.held().learned)

    @property
    def layered(self) -> bool:
        """Whether it has equal layers; GNMT has none, because each of its layers has other inputs."""
        return bool(self._stacks(Use("training")))

    def _stacks(self, use: Use) -> tuple[Stack, ...]:
        """Return the model's equal layers."""
        return tuple(item for item in self._items(use) if isinstance(item, Stack))

    def _left(self, dtype: str) -> tuple[Part, ...]:
        """Return the parts of decoding that hold the state a pass over a whole sequence leaves behind."""
        if not self.family.decodes:
            return ()
        # In decoding, `seq_kv` is the length of the model's own sequence, and `seq` an encoder's.
        turned = {S: N, N: S} if self.family.encodes else {S: N}
        return tuple(
            dataclasses.replace(
                part,
                sizes=tuple((name, v.xreplace(turned)) for name, v in part.sizes),
                cached=part.cached.xreplace(turned),
            )
            for part in self._parts(Use("decode", dtype))
            if cached((part,)) != 0 or part.layer.tensors().updated != 0
        )

    def _items(self, use: Use) -> Iterator[Part | Stack]:
        """Return the model's parts and stacks of layers, or one device's share of them."""
        if self.devices == 1:
            return self.family.parts(self.fields, use)
        return shared(self.family, self.fields, use, self.devices)

    def _attention(self, attention: str) -> str:
        if attention not in ATTENTION:
            raise unknown_name(f"attention of {self.name}", attention, ATTENTION)
        return attention

    def _model(self, use: Use, what: str, direction: str) -> Model:
        parts = self._parts(use)
        tokens = B * (1 if use.decoding else N + (S if self.family.encodes else 0))
        # Output: scores of a token, or the pooled sequence; in training, the loss.
        width = self.fields.vocab if self.family.decodes else self.fields.d_model
        result = parse_dtype(use.around).bytes * B * width if what != "training" else LOSS_BYTES
        return Model(
            dtype=use.dtype,
            direction=direction,
            title=f"{self.name} {what}",
            parts=parts,
            inputs=sp.Integer(TOKEN_BYTES) * tokens,
            outputs=sp.nsimplify(result),
            state=cached(parts),
            origin=self.source,
            left_out=self.left_out,
            tensor=self.devices,
            context=self.context,
        )

    def _stored(self, model: Model) -> Model:
        """Return a use of the model with weights and caches in their storage formats."""
        formats: dict[str, Any] = self._formats(model.dtype)
        if "weights" in formats:
            formats["group"] = self.group
        return model.storing(**formats) if formats else model

    def _formats(self, dtype: str | None) -> dict[str, str]:
        """Return the storage formats that differ from the compute format, by what is stored."""
        around = None if dtype is None else parse_dtype(dtype).around.name
        kinds = {"weights": (self.weights, dtype), "cache": (self.cache, around)}
        return {what: kind for what, (kind, own) in kinds.items() if kind not in (None, own)}

    def _parts(self, use: Use) -> tuple[Part, ...]:
        """Return all parts in execution order, equal ones merged into one that repeats."""
        found: dict[Part, sp.Expr] = {}
        for item in self._items(use):
            for part in item if isinstance(item, Stack) else (item,):
                once = dataclasses.replace(part, repeats=sp.Integer(1))
                found[once] = found.get(once, ZERO) + part.repeats
        return tuple(dataclasses.replace(part, repeats=times) for part, times in found.items())

    # -- numbers ---------------------------------------------------------------------------

    @cached_property
    def parameters(self) -> int:
        """Number of parameters, with tied ones counted once."""
        return int(self._model(Use("training"), "training", "fwd+bwd").parameters())

    @typed
    def cache_bytes(self, dtype: str = "bf16") -> sp.Expr:
        """Return the size of the keys and values, or recurrent states, of the sequences [bytes].

        An expression of `batch`, and of `seq_kv`, the tokens of each sequence.

        Parameters
        ----------
        dtype : str
            The cache's format.

        Raises
        ------
        UnavailableError
            If the model generates nothing (BERT).
        """
        model = self.decode(dtype)
        return sp.expand(model.state + model.tensors().updated)

    def __repr__(self) -> str:
        """Show the name and the number of parameters."""
        return f"<{self.name}: {self.parameters:,} parameters>"
