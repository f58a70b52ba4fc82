"""A whole generation: the prompt once, then every token against a cache that grows by one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costmodel.errors import SizeError
from costmodel.evaluate import as_one_size
from costmodel.hardware import Device
from costmodel.models.architecture import Architecture
from costmodel.predict import predict
from costmodel.prediction import Prediction

Array = NDArray[np.float64]

#: New tokens that a generation may have: each is a prediction.
MOST_NEW = 2**20


@dataclass(frozen=True, eq=False)
class Generation:
    """The predicted time of a generation, token by token.

    Attributes
    ----------
    prefill : Prediction
        The prompt, which gives the first new token.
    decode : Prediction or None
        Every further token, an array; None where there is none.
    batch, new : int
        Sequences, and new tokens of each.
    """

    prefill: Prediction
    decode: Prediction | None
    batch: int
    new: int

    @property
    def first_s(self) -> float:
        """Time to the first token [s]."""
        return float(self.prefill.seconds)

    @property
    def decode_s(self) -> float:
        """Time of all further tokens [s]: the sum over the growing cache, no step left out."""
        return float(self.steps("seconds")[1:].sum())

    @property
    def seconds(self) -> float:
        """Time of the whole [s]."""
        return self.first_s + self.decode_s

    @property
    def lower_s(self) -> float:
        """Time that no measurement undercuts [s]."""
        return float(self.steps("lower_s").sum())

    @property
    def token_s(self) -> float:
        """Time of one further token, on average [s]; NaN where there is none."""
        return self.decode_s / (self.new - 1) if self.new > 1 else float("nan")

    @property
    def tokens_per_s(self) -> float:
        """New tokens of all sequences a second."""
        return self.batch * self.new / self.seconds

    def steps(self, what: str) -> Array:
        """Return a time of each new token, the first one's with the prompt [s].

        Parameters
        ----------
        what : {"seconds", "lower_s"}
            The time predicted, or what no measurement undercuts.
        """
        first = np.array([getattr(self.prefill, what)], dtype=np.float64)
        if self.decode is None:
            return first
        # Without a cache that grows every token takes as long.
        return np.concatenate([first, np.broadcast_to(getattr(self.decode, what), (self.new - 1,))])


def generation(
    model: Architecture,
    device: Device | str | Path,
    *,
    prompt: int,
    new: int,
    batch: int = 1,
    dtype: str = "bf16",
    attention: str = "tiled",
    **options: Any,
) -> Generation:
    """Predict a whole generation.

    The prompt's pass gives the first token; token i + 1 is made against a cache of prompt + i positions.
    Of a model with an encoder, the prompt is the encoder's, and the decoder starts from one token.

    Parameters
    ----------
    model : Architecture
        The model.
    device : Device, str or Path
        A device, its name, or its spec file.
    prompt, new, batch : int
        Tokens of each prompt, tokens generated for each, sequences.
    dtype, attention : str
        See `Architecture`.
    **options : Any
        ``rung``, ``framework``, ``state`` and ``harness`` of `predict`.

    Raises
    ------
    UnavailableError
        If the model generates nothing, or the device cannot do it.
    SizeError
        If a size is not a whole number of at least 1, or more tokens are wanted than can be meant.
    """
    prompt, batch = as_one_size("seq", prompt), as_one_size("batch", batch)
    new = _new_tokens(new)
    decoder = model.decode(dtype)
    encoded = model.family.encodes
    start = {"seq": 1, "seq_kv": prompt} if encoded else {"seq": prompt}
    whole = model.prefill(dtype, attention=attention)
    prefill = predict(whole, device, {"batch": batch, **start}, **options)
    decode = None
    if new > 1:
        cache = np.arange(1, new) + (1 if encoded else prompt)
        sizes: dict[str, Any] = {"batch": batch, "seq": prompt, "seq_kv": cache}
        decode = predict(decoder, device, {name: sizes[name] for name in decoder.required}, **options)
    return Generation(prefill, decode, batch, new)


def _new_tokens(new: Any) -> int:
    """Return how many tokens are wanted, after checking it."""
    number = isinstance(new, (int, float, np.integer, np.floating)) and not isinstance(new, bool)
    if number and new in range(1, MOST_NEW + 1):
        return int(new)
    raise SizeError(f"generation: wanted 1 to {MOST_NEW:,} new tokens, got {new!r}")
