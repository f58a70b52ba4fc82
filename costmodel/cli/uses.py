"""Models where commands take layers: a model in one of its uses, and the sizes of that use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any

from costmodel.cli import options as o
from costmodel.cli import output
from costmodel.errors import CostmodelError, SizeError, unknown_name

if TYPE_CHECKING:
    from costmodel.hardware import Device
    from costmodel.models import Model

#: Uses of a model that are a layer each.
MODEL_USES = ("training", "prefill", "decode")
#: Options of a model that --set takes, if its use has them; `costmodel model` has them as options.
MODEL_OPTIONS = ("dtype", "attention", "recompute")
#: Options for how a model is stored.
STORED = {"weights": str, "group": int, "cache": str}


def used(name: str, settings: Iterable[str], use: str, tensor: int = 1) -> Model:
    """Return a model in one of its uses, with its options set.

    Raises
    ------
    UnknownNameError, CostmodelError
        If the use, the model or an option is unknown, or an option does not apply to the use.
    """
    from costmodel.layers import classes
    from costmodel.layers._options import read
    from costmodel.models import load

    if use == "generation":
        raise CostmodelError(f"--use generation is of many steps: `costmodel model {name}` predicts it")
    if use not in MODEL_USES:
        raise unknown_name("use of a model", use, MODEL_USES)
    if name in classes():
        raise CostmodelError(f"{name} is a layer, and --use is for models: leave --use out")
    if "[" in name:
        raise CostmodelError(f"options of a model are given by --set, such as --set dtype=fp8; got {name}")
    given = o.pairs(settings, "dtype=fp16")
    kinds = {option: kind for option, kind in STORED.items() if option in given}
    stored = {what: read(f"{what} of {name}", given.pop(what), kind) for what, kind in kinds.items()}
    if stored and use == "training":
        raise CostmodelError(f"--set {next(iter(stored))} applies to --use prefill and decode only")
    whole = load(name).tensor_parallel(tensor).storing(**stored)
    found = getattr(whole, use)
    known = [option for option in MODEL_OPTIONS if option in signature(found).parameters]
    for option in given:
        if option not in known:
            raise unknown_name(f"option of {name} in {use}", option, [*known, *STORED])
    made: Model = found(**given)
    return made


def sizes_of_use(command: str, model: Model, sizes: Mapping[str, Any], use: str) -> dict[str, Any]:
    """Return the sizes that a use takes: one sequence by default; `seq` and `seq_kv` are interchangeable.

    Raises
    ------
    SizeError
        If both lengths are given and the use takes one, or one is given and it takes none.
    """
    taken = {"seq", "seq_kv"} & set(model.required)
    if {"seq", "seq_kv"} <= set(sizes) and len(taken) == 1:
        raise SizeError(f"{command}: {use} takes one length, -D {taken.pop()}=…; got seq and seq_kv")
    length = sizes.get("seq", sizes.get("seq_kv"))
    if length is not None and not taken:
        named = " and ".join(name for name in ("seq", "seq_kv") if name in sizes)
        raise SizeError(f"{command}: {model.title} takes no length, its state does not grow; got {named}")
    given = {"batch": 1.0, **sizes}
    for name in ("seq", "seq_kv"):
        if name in model.required and length is not None:
            given.setdefault(name, length)
    lengths = {"seq", "seq_kv"} - set(model.required)
    return {name: value for name, value in given.items() if name not in lengths}


def machines(device: Device, number: int) -> str:
    """Return the device, or the number of devices of which an answer describes each."""
    if number == 1:
        return device.name
    node = "in one node" if number <= device.joined else "as if they were in one node"
    return f"each of {number} × {device.name} {node}"


def say_if_wider_than_a_node(number: int, *devices: Device) -> None:
    """Warn if more devices are taken for one node than links of that device are known to join."""
    for device in dict.fromkeys(devices):
        if number > device.joined and device.link_bandwidth:
            output.say(
                f"{device.name}: its links join {device.joined} devices, got {number} in a node; "
                "times are those of links that join them all at the same bandwidth"
            )


def say_if_too_long(name: str, context: int | None, sizes: Mapping[str, Any]) -> None:
    """Warn if a sequence is longer than a model is made for."""
    import numpy as np

    lengths = [float(np.max(sizes[size])) for size in ("seq", "seq_kv") if size in sizes]
    longest = max(lengths, default=0.0)
    if context is not None and longest > context:
        output.say(
            f"{name}: made for at most {context:,} tokens a sequence, got {longest:,.0f}; "
            "times and memory are those of such a model made for more"
        )
