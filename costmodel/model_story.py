"""Tables of a whole model's report: where the time goes on each device, and what would help.

The tables are made here; `costmodel.reports` shows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from costmodel import hardware, reports
from costmodel.answer import kernels_run
from costmodel.arguments import typed
from costmodel.dtypes import dtype as parse_dtype
from costmodel.errors import CostmodelError, UnavailableError
from costmodel.evaluate import as_size
from costmodel.explain import elasticities, what_if
from costmodel.facts import facts_of
from costmodel.model_memory import Memory, sizes_of
from costmodel.model_plans import plans
from costmodel.models import Architecture
from costmodel.models._part import part_of
from costmodel.models.generation import Generation, generation
from costmodel.predict import as_device, predict
from costmodel.prediction import Prediction

#: Uses of a model, each with its description.
USES = {
    "prefill": "one pass over whole sequences, with the logits of each one's next token",
    "decode": "one new token per sequence, with the earlier ones cached",
    "training": "one step of forward, backward and AdamW's update",
}
#: Devices tried beside the given ones by default.
OTHERS = ("nvidia/a100-sxm-80gb", "nvidia/h100-sxm", "nvidia/h200-sxm", "nvidia/b200-sxm", "amd/mi300x")
#: Cluster sizes that training is planned for [devices].
CLUSTERS = (8, 64)
#: Range of the charts' lengths [tokens], by doubling; the end is at least twice the length asked about.
SHORTEST, LONGEST = 128, 2**17


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A model, devices, and the sizes asked about.

    Attributes
    ----------
    architecture : Architecture
        The model.
    devices : tuple of Device
        The devices.
    batch, seq : int
        Number of sequences, and tokens of each; when decoding, tokens in the cache.
    new : int
        Tokens to generate after a prompt of `seq`.
    dtype, attention : str
        See `Architecture`.
    rung : str, optional
        See `predict`.
    """

    architecture: Architecture
    devices: tuple[hardware.Device, ...]
    batch: int
    seq: int
    new: int
    dtype: str = "bf16"
    attention: str = "tiled"
    rung: str | None = None

    @property
    def uses(self) -> list[str]:
        """The model's uses; a model that generates nothing has no decoding."""
        decodes = self.architecture.family.decodes
        return [use for use in USES if decodes or use != "decode"]

    @cached_property
    def places(self) -> dict[str, hardware.Device]:
        """The devices by name, without the vendor if that is unambiguous."""
        distinct = {device.name: device for device in self.devices}
        bare = {name: name.rpartition("/")[2] for name in distinct}
        plain = [word for word in bare.values() if list(bare.values()).count(word) == 1]
        return {bare[name] if bare[name] in plain else name: device for name, device in distinct.items()}

    @cached_property
    def lengths(self) -> np.ndarray:
        """The charts' lengths [tokens], with the one asked about."""
        first, last = min(SHORTEST, self.seq), max(LONGEST, 2 * self.seq)
        doubled = first * 2.0 ** np.arange(np.floor(np.log2(last / first)) + 1)
        return np.unique([*doubled, float(self.seq)])

    def memory(self, device: hardware.Device) -> Memory:
        """Return the memory model of the architecture on a device."""
        return Memory(
            architecture=self.architecture, device=device, dtype=self.dtype, attention=self.attention
        )

    def predict(self, use: str, device: hardware.Device, lengths: Any) -> Prediction:
        """Return the prediction of a use."""
        model = self.memory(device).model(use)
        sizes = sizes_of(model, self.batch, lengths)
        return predict(model, device, sizes, rung=self.rung)

    def generation(self, device: hardware.Device) -> Generation:
        """Return the prediction of a whole generation."""
        return generation(
            self.architecture, device, prompt=self.seq, new=self.new, batch=self.batch,
            dtype=self.dtype, attention=self.attention, rung=self.rung,
        )  # fmt: skip

    def lacking(self, device: hardware.Device) -> float:
        """Return the memory that a generation needs beyond the device's free memory, at least 0 [bytes]."""
        memory = self.memory(device)
        held, _, _ = memory.generating(prompt=self.seq, new=self.new, batch=self.batch)
        return max(0.0, held - memory.room)


@typed
def story(
    architecture: Architecture,
    devices: Sequence[hardware.Device | str | Path],
    *,
    batch: int = 1,
    seq: int = 2048,
    new: int = 128,
    dtype: str = "bf16",
    attention: str = "tiled",
    rung: str | None = None,
    clusters: Iterable[int] = CLUSTERS,
    others: Sequence[hardware.Device | str | Path] = OTHERS,
) -> reports.ModelFrames:
    """Return the tables of a model's report.

    Parameters
    ----------
    architecture : Architecture
        From `costmodel.models.load`.
    devices : sequence of Device, str or Path
        One or more devices.
    batch, seq : int
        Number of sequences, and tokens of each; when decoding, tokens in the cache. For training on several
        devices, the number of sequences per device.
    new : int
        Tokens to generate after a prompt of `seq`.
    dtype, attention : str
        See `Architecture`.
    rung : str, optional
        See `predict`.
    clusters : iterable of int
        Cluster sizes that training is planned for [devices].
    others : sequence of Device, str or Path
        Devices to try in place of each given one; those without a rate in `dtype` are left out.

    Raises
    ------
    SizeError
        If a size is not a whole number of at least 1.
    UnavailableError
        If a device cannot run the model.
    """
    for name, size in (("batch", batch), ("seq", seq), ("seq", new)):
        as_size(name, size)
    machines = tuple(as_device(device) for device in devices)
    if not machines:
        raise CostmodelError("story: wanted one device or more, got none")
    asked = Question(
        architecture=architecture, devices=machines, batch=int(batch), seq=int(seq), new=int(new),
        dtype=dtype, attention=attention, rung=rung,
    )  # fmt: skip
    tried = [*machines, *(other for other in map(as_device, others) if _has(other, dtype))]
    every = {device.name: device for device in tried}
    answers, kernels, changes, slopes = [], [], [], []
    for where, device in asked.places.items():
        for use in asked.uses:
            keys = {"where": where, "use": use}
            prediction = asked.predict(use, device, float(asked.seq))
            answers.append({**keys, **_answer(asked, use, prediction)})
            kernels.append(_kernels(prediction).assign(**keys))
            alternatives = [other for name, other in every.items() if name != device.name]
            changes.append(what_if(prediction, alternatives).assign(**keys))
            slopes.append(_slopes(prediction).assign(**keys))
    layouts, refused = plans(
        architecture, asked.places, clusters, batch=asked.batch, seq=asked.seq,
        dtype=dtype, attention=attention, rung=rung,
    )  # fmt: skip
    return reports.ModelFrames(
        name=_named(architecture, dtype),
        parameters=architecture.parameters,
        uses={use: USES[use] for use in asked.uses},
        batch=asked.batch,
        seq=asked.seq,
        margin=asked.memory(machines[0]).margin,
        answers=pd.DataFrame(answers),
        kernels=pd.concat(kernels, ignore_index=True),
        lengths=_lengths(asked),
        tokens=_tokens(asked),
        memory=_memory(asked),
        changes=pd.concat(changes, ignore_index=True),
        slopes=pd.concat(slopes, ignore_index=True),
        layouts=layouts,
        refused=refused,
        notes=_notes(asked),
        facts=_facts(asked, every),
    )


def _has(device: hardware.Device, dtype: str) -> bool:
    """Return whether a device has a rate in a format."""
    try:
        device.peak(dtype)
    except UnavailableError:
        return False
    return True


# -- at the sizes asked for --------------------------------------------------------------------


def _answer(asked: Question, use: str, prediction: Prediction) -> dict[str, Any]:
    """Return the totals of one use on one device."""
    device = prediction.device
    memory = asked.memory(device)
    low, high = prediction.interval(80)
    return {
        "device": device.name,
        "seconds": prediction.seconds,
        "lower_s": prediction.lower_s,
        "lo80_s": low,
        "hi80_s": high,
        "bound": prediction.bound,
        "utilisation": prediction.utilisation,
        "matrix_flops": prediction.matrix_flops,
        "hbm_bytes": prediction.hbm_bytes,
        "launches": prediction.launches,
        "memory_bytes": memory.total(use, batch=asked.batch, length=asked.seq),
        "hbm_capacity_bytes": device.hbm_capacity,
        "longest_seq": _count(memory.longest(use, batch=asked.batch)),
        "largest_batch": _count(memory.largest(use, length=asked.seq)),
        "rung": prediction.rung,
        "constants_from": prediction.constants_from,
    }


def _count(number: int | None) -> float:
    return np.nan if number is None else float(number)


def _kernels(prediction: Prediction) -> pd.DataFrame:
    """Return a row for each kernel that runs, with the part of the model it belongs to."""
    columns = ("kernel", "seconds", "bound", "matrix_flops", "hbm_bytes", "constants_from")
    rows = [
        {
            "part": part_of(row),
            "phase": row["phase"].partition(": ")[2],
            **{name: row[name] for name in columns},
        }
        for row in kernels_run(prediction)
    ]
    return pd.DataFrame(rows)


def _slopes(prediction: Prediction) -> pd.DataFrame:
    """Return the elasticities of the roofline's time: its change per 1 % more of each rate and size [%]."""
    sizes = prediction.layer.sizes()
    rows = [
        {"of": name, "kind": "size" if name in sizes else "rate", "elasticity": slope}
        for name, slope in elasticities(prediction).items()
    ]
    return pd.DataFrame(rows, columns=["of", "kind", "elasticity"])


# -- along the length --------------------------------------------------------------------------


def _lengths(asked: Question) -> pd.DataFrame:
    """Return the time of every part of the model over the lengths, for each use and device."""
    frames = []
    for where, device in asked.places.items():
        for use in asked.uses:
            prediction = asked.predict(use, device, asked.lengths)
            rows = [
                pd.DataFrame(
                    {
                        "seq": asked.lengths,
                        "part": part_of(row),
                        "seconds": np.broadcast_to(row["seconds"], asked.lengths.shape),
                    }
                )
                for row in prediction.phases
            ]
            frames.append(pd.concat(rows).assign(where=where, use=use))
    keys = ["where", "use", "seq", "part"]
    return pd.concat(frames).groupby(keys, as_index=False, sort=False)[["seconds"]].sum()


def _tokens(asked: Question) -> pd.DataFrame:
    """Return times of a generation on each device, at doublings of the tokens generated."""
    if "decode" not in asked.uses:
        return pd.DataFrame()
    doubled = 2 ** np.arange(int(np.log2(asked.new)) + 1)
    made = np.unique([*doubled, asked.new])
    frames = []
    for where, device in asked.places.items():
        found = asked.generation(device)
        steps, lower = found.steps("seconds"), found.steps("lower_s")
        elapsed = np.cumsum(steps)
        later = np.flatnonzero(elapsed > 2 * found.first_s)
        columns = {
            "where": where,
            "prompt": asked.seq,
            "batch": asked.batch,
            "made": made,
            "step_s": steps[made - 1],
            "elapsed_s": elapsed[made - 1],
            "lower_s": np.cumsum(lower)[made - 1],
            "first_s": found.first_s,
            "even": later[0] + 1.0 if later.size else np.nan,
            "lacks_bytes": asked.lacking(device),
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _memory(asked: Question) -> pd.DataFrame:
    """Return the memory of every kind over the lengths, for each use and device."""
    frames = []
    for where, device in asked.places.items():
        memory = asked.memory(device)
        for use in asked.uses:
            for recompute in memory.recomputations if use == "training" else ("none",):
                kinds = memory.kinds(use, batch=asked.batch, lengths=asked.lengths, recompute=recompute)
                keys = {"where": where, "use": use, "recompute": recompute}
                frames += [
                    pd.DataFrame({"seq": asked.lengths, "kind": kind, "bytes": held}).assign(
                        **keys, room_bytes=memory.room
                    )
                    for kind, held in kinds.items()
                ]
    return pd.concat(frames, ignore_index=True)


def _named(architecture: Architecture, dtype: str) -> str:
    """Return the model's name with the format it computes in, then those it is stored in, if others."""
    stored = architecture.title.removeprefix(architecture.name)
    return f"{architecture.name} in {parse_dtype(dtype).name}{stored}"


# -- notes and sources -------------------------------------------------------------------------


def _notes(asked: Question) -> tuple[tuple[str, str], ...]:
    """Return notes for the page: the model's size and source, and what is not counted."""
    model = asked.architecture
    kept = model.title != model.name and "training" in asked.uses
    return (
        (model.title, f"{model.parameters_text}. Source: {model.source}."),
        *(
            [("Training", f"Training keeps weights in {asked.dtype}, whatever serving stores them in.")]
            if kept
            else ()
        ),
        ("Not counted", f"{model.left_out}."),
    )


def _facts(asked: Question, devices: dict[str, hardware.Device]) -> reports.Facts:
    """Return the facts of all devices, including those tried, and of the model's layers."""
    memory = asked.memory(asked.devices[0])
    models = [memory.model(use) for use in asked.uses]
    layers = dict.fromkeys(part.layer.name for model in models for part in (*model.parts, *model.updates))
    rows = [
        {"device": device, "layer": layer, "dtype": asked.dtype} for device in devices for layer in layers
    ]
    return facts_of(pd.DataFrame(rows), devices)
