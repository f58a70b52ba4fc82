"""Search for the fastest layout that fits: all layouts are evaluated, in vectorised batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from costmodel.arguments import typed
from costmodel.errors import CostmodelError
from costmodel.evaluate import as_one_size
from costmodel.layers._recompute import RECOMPUTE
from costmodel.parallel.cluster import Cluster
from costmodel.parallel.language_model import LanguageModel
from costmodel.parallel.layout import Layout, Numbers
from costmodel.parallel.limits import MARGIN, check_margin
from costmodel.parallel.training import Training
from costmodel.symbols import GLOSSARY

#: Micro-batches and numbers of virtual stages that are tried.
MICRO_BATCHES = (1, 2, 4, 8, 16)
INTERLEAVES = (1, 2, 3, 4, 6, 8)


@typed
def plan(
    model: LanguageModel,
    cluster: Cluster,
    *,
    batch: int,
    seq: int,
    seq_kv: int | None = None,
    margin: float = MARGIN,
    gradient_bytes: float | None = None,
    rung: str | None = None,
) -> pd.DataFrame:
    """Return every layout that fits into memory, the fastest first.

    Parameters
    ----------
    model : LanguageModel
        The model that is trained.
    cluster : Cluster
        The cluster; all of its devices are used.
    batch, seq : int
        Sequences per step, and tokens per sequence.
    seq_kv : int, optional
        Tokens per sequence of the encoder, for an encoder-decoder; default `seq`.
    margin : float
        Share of the memory that the model must leave free (fragmentation, buffers, the context).
    gradient_bytes, rung
        See `Training`.

    Returns
    -------
    DataFrame
        One row per layout: ``tensor``, ``pipeline``, ``data``, ``micro_batch``, ``interleave``, ``expert``,
        ``expert_tensor``, ``sequence_parallel``, ``recompute``, ``zero``; ``seconds`` and its parts
        (``forward_s``, …), ``memory_bytes`` and its kinds (``weights_bytes``, …), ``utilisation``,
        ``tokens_per_second``, ``energy_j``, ``cost`` if the cluster has a price, and what the times rest on,
        ``rung`` and ``constants_from`` (`Training.grounds`).

    Raises
    ------
    CostmodelError
        If no layout divides evenly, or none fits; the message then says how much memory is missing, and
        what would help most.
    """
    check_margin(margin)
    batch, seq = as_one_size("batch", batch), as_one_size("seq", seq)
    step: dict[str, Any] = {"model": model, "cluster": cluster, "batch": batch, "seq": seq, "seq_kv": seq_kv}
    step |= {"gradient_bytes": gradient_bytes, "rung": rung}
    every = _every(step)
    if every.empty:
        raise CostmodelError(
            f"no layout of {cluster.devices} devices, with up to {model.num_layers} pipeline stages, "
            f"divides {', '.join(f'{n} {what}' for what, n in model.divided.items())} and "
            f"a batch of {batch} evenly"
        )
    room = (1 - margin) * cluster.machine.hbm_capacity
    fitting = every[every["memory_bytes"] <= room]
    if fitting.empty:
        raise CostmodelError(_missing(every, room, step))
    return fitting.sort_values("seconds", kind="stable", ignore_index=True)


def _every(step: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row per layout of a step, whether it fits or not; without rows if none divides evenly."""
    found = layouts(step["model"], step["cluster"], step["batch"])
    frames = [_frame(Training(layout=layout, **step)) for layout in found]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def layouts(model: LanguageModel, cluster: Cluster, batch: int) -> Iterator[Layout]:
    """Yield all layouts that divide evenly; layouts that differ only in numbers are yielded together."""
    every = list(_numbers(model, cluster, batch))
    n = Numbers(*np.array(every, dtype=np.float64).reshape(-1, len(Numbers._fields)).T)
    kinds = itertools.product((False, True), _recompute(model), (0, 1, 2, 3))
    for parallel, recompute, zero in kinds:
        # Sequence parallelism needs devices that share a layer, and ZeRO needs several copies.
        chosen = ((n.tensor > 1) | (not parallel)) & ((n.data > 1) | (zero == 0))
        # ZeRO 2 and 3 scatter gradients after every micro-batch: no framework combines them with a
        # pipeline.
        chosen &= (n.pipeline == 1) | (zero < 2)
        chosen &= (n.tensor == 1) | parallel | (not model.by_positions)
        if chosen.any():
            numbers = {name: column[chosen] for name, column in n._asdict().items()}
            yield Layout(**numbers, sequence_parallel=parallel, recompute=recompute, zero=zero)


def _recompute(model: LanguageModel) -> tuple[str, ...]:
    return RECOMPUTE if model.attention == "dense" else ("none", "full")


def _numbers(model: LanguageModel, cluster: Cluster, batch: int) -> Iterator[tuple[int, ...]]:
    """Yield the numbers of layouts that divide evenly, in the order of `Numbers`."""
    for t in model.shares(cluster.per_node):
        if cluster.devices % t:
            continue
        rest = cluster.devices // t
        for p in (n for n in range(1, min(rest, model.num_layers) + 1) if rest % n == 0):
            d = rest // p
            for b, v in itertools.product(MICRO_BATCHES, INTERLEAVES):
                if batch % (d * b) or p * v > model.num_layers or (v > 1 and p == 1):
                    continue
                if v == 1 or (batch // (d * b)) % p == 0:
                    yield from ((t, p, d, b, v, e, x) for e, x in _spreads(model, t, t * d))


def _spreads(model: LanguageModel, tensor: int, devices: int) -> list[tuple[int, int]]:
    """Return the pairs (`expert`, `expert_tensor`) that divide evenly among the devices with a layer."""
    numbers = [e for e in range(1, max(1, model.experts) + 1) if model.experts % e == 0]
    cuts = [1, tensor] if tensor > 1 and model.experts and model.expert_width % tensor == 0 else [1]
    return [(e, x) for x in cuts for e in numbers if devices % (e * x) == 0]


def _frame(training: Training) -> pd.DataFrame:
    """Return one row per layout of a step."""
    layout = training.layout
    columns = {name: column.astype(np.int64) for name, column in layout.numbers._asdict().items()}
    cost = {} if training.cost is None else {"cost": training.cost}
    return pd.DataFrame(
        {
            **columns,
            "sequence_parallel": layout.sequence_parallel,
            "recompute": layout.recompute,
            "zero": layout.zero,
            "seconds": training.seconds,
            **{f"{name}_s": value for name, value in training.parts.items()},
            "memory_bytes": training.memory_bytes,
            **{f"{name}_bytes": value for name, value in training.memory.items()},
            "utilisation": training.utilisation,
            "tokens_per_second": training.tokens_per_second,
            "energy_j": training.energy_j,
            **cost,
            **training.grounds,
        }
    )


def _missing(every: pd.DataFrame, room: float, step: Mapping[str, Any]) -> str:
    """Return how much memory the smallest layout lacks, and how many devices would do."""
    least = every.iloc[int(np.argmin(every["memory_bytes"]))]
    numbers = ("tensor", "pipeline", "data", "expert", "expert_tensor", "recompute", "zero")
    named = ", ".join(f"{n} {least[n]}" for n in numbers if not n.startswith("expert") or least[n] > 1)
    names = ("weights", "gradients", "optimiser", "activations", "gathered")
    kinds = {name: least[f"{name}_bytes"] for name in names}
    largest = max(kinds, key=lambda name: kinds[name])
    return (
        f"nothing fits: the smallest layout ({named}) takes {least['memory_bytes'] / 1e9:.1f} GB of "
        f"{room / 1e9:.1f} GB per device, {(least['memory_bytes'] - room) / 1e9:.1f} GB too much, most of it "
        f"{largest}; {_enough(least['memory_bytes'] / room, room, step)}"
    )


def _enough(times: float, room: float, step: Mapping[str, Any]) -> str:
    """Return how many devices would do, if the smallest layout takes `times` the memory there is.

    More copies hold no less of what every device needs (activations, a gathered layer), so it is tried.
    """
    cluster = step["cluster"]
    fewest = cluster.devices * 2 ** int(np.ceil(np.log2(times)))
    for devices in (fewest, 2 * fewest, 4 * fewest):
        # Whole nodes.
        wider = devices if devices <= cluster.per_node else -(-devices // cluster.per_node) * cluster.per_node
        if wider > GLOSSARY["devices"].largest:
            break
        found = _every({**step, "cluster": replace(cluster, devices=wider)})
        if not found.empty and (found["memory_bytes"] <= room).any():
            return f"{wider} devices would do"
    return f"not even {4 * fewest} devices would do, but more memory per device"
