"""Tables of the page of a whole model."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from costmodel.reports.frames import Facts


@dataclass(frozen=True, eq=False)
class ModelFrames:
    """A whole model on one or more devices.

    ``where`` is a device in words, ``use`` a use of the model. For a use without a length, the column
    ``seq`` has the length that was asked about.

    Attributes
    ----------
    name : str
        Name of the model, with its number formats.
    parameters : int
        Number of parameters.
    uses : dict of str to str
        Uses and their descriptions, in the order shown.
    batch, seq : int
        Sizes asked about: number of sequences, and tokens of each (when decoding, tokens in the cache).
    margin : float
        Fraction of a device's memory that the model cannot use.
    answers : DataFrame
        where, device, use, seconds, lower_s, lo80_s, hi80_s, bound, utilisation, matrix_flops, hbm_bytes,
        launches, memory_bytes, hbm_capacity_bytes, longest_seq, largest_batch (0: not one; missing:
        any), rung, constants_from.
    kernels : DataFrame
        where, use, part, phase, kernel, seconds, bound, matrix_flops, hbm_bytes, constants_from; the
        seconds of a use on a device sum to its answer.
    lengths : DataFrame
        where, use, seq, part, seconds.
    tokens : DataFrame
        A generation after a prompt of `seq` tokens: where, prompt, batch, made (number of tokens: doublings,
        and all), step_s (of that token alone), elapsed_s and lower_s (of all up to it), first_s (of the
        prompt), even (number of tokens from which on they take longer than the prompt; missing: never),
        lacks_bytes; empty for a model that generates nothing.
    memory : DataFrame
        where, use, recompute, seq, kind, bytes, room_bytes; only training has several kinds of
        recomputation.
    changes : DataFrame
        where, use, change, kind, seconds, speedup, rung, constants_from, alike.
    slopes : DataFrame
        where, use, of, kind (``rate`` or ``size``), elasticity.
    layouts : DataFrame
        where, cluster, rank, found (number of layouts that fit), layout and short (in words and in letters),
        the layout's numbers, seconds and its parts (``…_s``), memory_bytes, utilisation,
        tokens_per_second, rung, constants_from; empty if there is no plan.
    refused : tuple of str
        What could not be planned, with reasons.
    notes : tuple of (str, str)
        Terms and what they mean: the model's source, and what is not counted.
    facts : Facts
        The facts behind the tables.
    """

    name: str
    parameters: int
    uses: dict[str, str]
    batch: int
    seq: int
    margin: float
    answers: pd.DataFrame
    kernels: pd.DataFrame
    lengths: pd.DataFrame
    tokens: pd.DataFrame
    memory: pd.DataFrame
    changes: pd.DataFrame
    slopes: pd.DataFrame
    layouts: pd.DataFrame
    refused: tuple[str, ...]
    notes: tuple[tuple[str, str], ...]
    facts: Facts
