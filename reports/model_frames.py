"""The tables that the page of a whole model is made of."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from costmodel.reports.frames import Facts


@dataclass(frozen=True, eq=False)
class ModelFrames:
    """A whole model on one or more devices.

    ``where`` is a device in words, ``use`` what the model is used for. Of a use without a length the
    column ``seq`` says what was asked.

    Attributes
    ----------
    name : str
        The model's.
    parameters : int
        Learned numbers.
    uses : dict of str to str
        What it is used for, and what that means, in the order shown.
    batch, seq : int
        What was asked: sequences, and tokens of each (when decoding, those in its cache).
    margin : float
        Part of a device's memory that is not the model's to use.
    answers : DataFrame
        where, device, use, seconds, lower_s, lo80_s, hi80_s, bound, utilisation, matrix_flops, hbm_bytes,
        launches, memory_bytes, hbm_capacity_bytes, longest_seq, largest_batch (0: not one; missing:
        any), rung, constants_from.
    kernels : DataFrame
        where, use, part, phase, kernel, seconds, bound, matrix_flops, hbm_bytes, constants_from; the
        seconds of one use on one device add up to its answer.
    lengths : DataFrame
        where, use, seq, part, seconds.
    tokens : DataFrame
        A generation after a prompt of `seq` tokens: where, prompt, batch, made (doublings, and all),
        step_s (of that token alone), elapsed_s and lower_s (of all until then), first_s (of the prompt),
        even (from which token on more time is not the prompt's than is; missing: from none),
        lacks_bytes; empty for a model that generates nothing.
    memory : DataFrame
        where, use, recompute, seq, kind, bytes, room_bytes; training recomputes in several ways,
        other uses none.
    changes : DataFrame
        where, use, change, kind, seconds, speedup, rung, constants_from, alike.
    slopes : DataFrame
        where, use, of, kind (``rate`` or ``size``), elasticity.
    layouts : DataFrame
        where, cluster, rank, found (how many fit), layout and short (in words and in letters), the
        layout's numbers, seconds and its parts (``…_s``), memory_bytes, utilisation,
        tokens_per_second; empty where no plan is made.
    refused : tuple of str
        What could not be planned, and why.
    notes : tuple of (str, str)
        Terms and what they mean: the model's source, and what is not counted.
    facts : Facts
        What it all rests on.
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
