"""Command for training on many devices: ``plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from costmodel.cli import options as o
from costmodel.cli import output
from costmodel.cli.uses import say_if_too_long, say_if_wider_than_a_node
from costmodel.errors import SizeError
from costmodel.files import check_writable, write_whole
from costmodel.units import render

if TYPE_CHECKING:
    import pandas as pd

    from costmodel.parallel import Cluster

#: Columns that say how a layout divides the model, and choices that may be equal in all layouts shown.
_CUTS = ("tensor", "pipeline", "data")
_CHOICES = (
    *("expert", "expert_tensor", "micro_batch", "interleave"),
    *("sequence_parallel", "recompute", "zero"),
)


def plan(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A catalogue name, or a config.json.")],
    machine: o.Machine,
    devices: Annotated[int, typer.Option(metavar="N", help="Number of devices in the cluster.", min=1)],
    defines: o.SingleDefines,
    node: Annotated[
        int | None,
        typer.Option(metavar="N", help="Devices per node; default: 8, or as many as links join.", min=1),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            metavar="PRICE", help="Price of a device per hour, in any currency.", min=0.0, max=o.MOST_PRICE
        ),
    ] = None,
    tokens: Annotated[
        float | None,
        typer.Option(
            metavar="TOKENS",
            help="Tokens of the whole training (2e12), to estimate its time.",
            min=1.0,
            max=1e24,
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="Number format of weights and activations.")
    ] = "bf16",
    attention: Annotated[
        str, typer.Option(metavar="KIND", help="tiled (scores stay on the chip) or dense (they do not).")
    ] = "tiled",
    margin: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Share of the memory to keep free.", min=0.0, max=0.9),
    ] = 0.08,
    top: Annotated[int, typer.Option(metavar="N", help="Number of layouts to show.", min=1)] = 8,
    device_set: o.DeviceSettings = [],
    rung: o.Rung = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="File for all layouts, .csv or .parquet."),
    ] = None,
    force: o.Force = False,
    as_json: o.AsJson = False,
) -> None:
    """Find the fastest layout to train a model on many devices.

    A layout says how the model is divided (tensor, pipeline, data, experts), what is sharded (ZeRO) and what
    is recomputed. Only layouts that fit into the memory are listed. MFU is the share of the peak that the
    model's own FLOP reach, without recomputation and masked pairs.
    """
    from costmodel.dtypes import dtype as parse_dtype
    from costmodel.models import load
    from costmodel.parallel import Cluster, stack_of
    from costmodel.parallel import plan as search
    from costmodel.predict import together

    sizes = o.sizes(defines)
    complete = set(sizes) - {"seq_kv"} == {"batch", "seq"}
    if not complete or not all(isinstance(v, float) for v in sizes.values()):
        raise SizeError(
            "plan: wanted -D batch=… seq=… (and seq_kv=… for an encoder-decoder), one value each, "
            f"got {' '.join(defines)!r}"
        )
    if out is not None:
        check_writable(out, overwrite=force, suffixes=(".csv", ".parquet"))
    cluster = Cluster(device=o.device(machine, device_set), devices=devices, node=node, price=price)
    whole = load(name)
    model = stack_of(whole, dtype=dtype, attention=attention)
    given: dict[str, Any] = {name: int(value) for name, value in sizes.items()}
    found = search(model, cluster, **given, margin=margin, rung=rung)
    say_if_too_long(whole.name, whole.context, sizes)
    say_if_wider_than_a_node(min(cluster.per_node, devices), cluster.machine)
    if tokens is not None:
        found["training_days"] = tokens / found["tokens_per_second"] / 86400
    if out is not None:
        write_whole(out, lambda place: output.write_table(found, place), overwrite=force)
    if as_json:
        output.print_json(found.head(top).to_dict("records"))
        return
    _print(f"{name} on {devices} × {cluster.machine.name}", found, top)
    if tokens is not None:
        print(_whole_training(found["training_days"].iloc[0], tokens, cluster))
    if parse_dtype(dtype).bytes <= 1:
        print(
            f"products with weights are counted in {dtype}, all else in 16 bits; rounding to {dtype} is not "
            "counted"
        )
    shown = found.head(top)
    grounds = together(zip(shown["rung"], shown["constants_from"], strict=True))
    print(output.grounds(*grounds, cluster.machine.spec_hash))


def _print(what: str, found: pd.DataFrame, top: int) -> None:
    print(f"{what}: {'1 layout fits' if len(found) == 1 else f'{len(found):,} layouts fit'}")
    mixture = (found["expert"] * found["expert_tensor"] > 1).any()
    choices = [name for name in _CHOICES if mixture or not name.startswith("expert")]
    best, head = found.iloc[0], found.head(top)
    # A choice that is the same in every row is printed once: few terminals are wide enough for all columns.
    same = [name for name in choices if len(head) > 1 and head[name].nunique() == 1]
    shown = [*_CUTS, *(name for name in choices if name not in same)]
    if same:
        print(f"all with {', '.join(f'{_words(name)} {_said(best[name])}' for name in same)}")
    rows = [[*(_said(row[c]) for c in shown), *_answers(row)] for _, row in head.iterrows()]
    headers = [*map(_words, shown), "step", "tokens/s", "memory", "MFU"]
    output.print_table(headers, rows, left=0)
    shares = {name: float(best[name] / best["seconds"]) for name in map(str, found) if name.endswith("_s")}
    kept = {name.removesuffix("_s"): share for name, share in shares.items() if share > 0.001}
    where = ", ".join(f"{name} {share:.0%}" for name, share in kept.items())
    print(f"where the fastest step goes: {where}")
    spent = [f"{render(best['energy_j'], 'J')} at rated power"] if best["energy_j"] > 0 else []
    spent += [f"a cost of {output.cost(float(best['cost']))}"] if "cost" in found else []
    if spent:
        print(f"and takes {' and '.join(spent)}")


def _whole_training(days: float, tokens: float, cluster: Cluster) -> str:
    """Return the time and the cost of a whole training at the fastest layout's rate."""
    hours = 24 * days * cluster.devices
    cost = "" if cluster.price is None else f", a cost of {cluster.price * hours:,.0f}"
    return f"{tokens:.4g} tokens at that rate take {days:,.1f} days, {hours:,.0f} device hours{cost}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _said(value: Any) -> str:
    return {"True": "yes", "False": "no"}.get(str(value), str(value))


def _answers(row: pd.Series[Any]) -> list[str]:
    memory = output.count(float(row["memory_bytes"]), "bytes")
    rate = output.count(float(row["tokens_per_second"]))
    return [output.seconds(float(row["seconds"])), rate, memory, f"{row['utilisation']:.1%}"]


COMMANDS = (("plan", plan, "costmodel plan llama-2-7b -m a100-sxm-80gb --devices 16 -D batch=64 seq=4096"),)
