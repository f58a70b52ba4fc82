"""A whole generation: one pass over the prompt, then one decoding step per token with a growing cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costmodel.errors import SizeError
from costmodel.evaluate import as_one_size
from costmodel.hardware import Device
from costmodel.models.architecture import Architecture
from costmodel.predict import predict, together
from costmodel.prediction import Prediction

Array = NDArray[np.float64]

#: Largest number of new tokens: each takes a prediction.
MOST_NEW = 2**20


@dataclass(frozen=True, eq=False)
class Generation:
    """The predicted times of a generation, token by token.

    Attributes
    ----------
    prefill : Prediction
        The pass over the prompt, which produces the first new token.
    decode : Prediction or None
        The steps of all further tokens, an array; None if there are none.
    batch, new : int
        Number of sequences, and new tokens of each.
    label : str
        The model's name, with its formats.
    """

    prefill: Prediction
    decode: Prediction | None
    batch: int
    new: int
    label: str

    @property
    def sizes(self) -> dict[str, float]:
        """Number of sequences, and tokens of each prompt, which are an encoder's if there is one."""
        asked = self.prefill.sizes
        return {"batch": asked["batch"], "seq": asked.get("seq_kv", asked["seq"])}

    @property
    def grounds(self) -> tuple[str, str]:
        """The lowest rung of the pass over the prompt and the steps, and all origins of their constants."""
        passes = [self.prefill] if self.decode is None else [self.prefill, self.decode]
        return together((each.rung, each.constants_from) for each in passes)

    @property
    def first_s(self) -> float:
        """Time to the first token [s]."""
        return float(self.prefill.seconds)

    @property
    def decode_s(self) -> float:
        """Time of all further tokens [s]: the sum over every step with its own cache size."""
        return float(self.steps("seconds")[1:].sum())

    @property
    def seconds(self) -> float:
        """Time of the whole generation [s]."""
        return self.first_s + self.decode_s

    @property
    def lower_s(self) -> float:
        """Lower bound of the time: no measurement should be shorter [s]."""
        return float(self.steps("lower_s").sum())

    @property
    def token_s(self) -> float:
        """Mean time of one further token [s]; NaN if there is none."""
        return self.decode_s / (self.new - 1) if self.new > 1 else float("nan")

    @property
    def tokens_per_second(self) -> float:
        """Throughput: new tokens of all sequences per second."""
        return self.batch * self.new / self.seconds

    def steps(self, what: str) -> Array:
        """Return the time of each new token [s]; the first one's includes the prompt.

        Parameters
        ----------
        what : {"seconds", "lower_s"}
            The predicted time, or its lower bound.
        """
        first = np.array([getattr(self.prefill, what)], dtype=np.float64)
        if self.decode is None:
            return first
        # A model whose cache does not grow takes the same time for every token.
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

    The pass over the prompt yields the first token; token i + 1 is computed with a cache of prompt + i
    positions. In a model with an encoder, the prompt is the encoder's and the decoder starts from one token.

    Parameters
    ----------
    model : Architecture
        The model.
    device : Device, str or Path
        A device, its name, or its spec file.
    prompt, new, batch : int
        Tokens per prompt, tokens to generate per prompt, and number of sequences.
    dtype, attention : str
        See `Architecture`.
    **options : Any
        ``rung``, ``framework``, ``state`` and ``harness`` of `predict`.

    Raises
    ------
    UnavailableError
        If the model generates nothing, or the device cannot run it.
    SizeError
        If a size is not a whole number of at least 1, or `new` is too large.
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
    return Generation(prefill, decode, batch, new, replace(whole, title=f"{model.name} generation").label)


def _new_tokens(new: Any) -> int:
    """Return the number of new tokens after checking it."""
    number = isinstance(new, (int, float, np.integer, np.floating)) and not isinstance(new, bool)
    if number and new in range(1, MOST_NEW + 1):
        return int(new)
    raise SizeError(f"generation: wanted 1 to {MOST_NEW:,} new tokens, got {new!r}")
