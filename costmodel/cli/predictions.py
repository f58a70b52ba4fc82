"""Commands that predict: ``predict``, ``sweep``, ``crossover``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from costmodel.answer import kernels_run
from costmodel.cli import options as o
from costmodel.cli import output
from costmodel.cli.sweeping import sweep
from costmodel.errors import CostmodelError
from costmodel.units import in_full

if TYPE_CHECKING:
    from costmodel.crossing import Crossover
    from costmodel.prediction import Prediction

#: Counts printed for a person, with their units.
SHOWN = {
    "matrix_flops": "FLOP",
    "vector_flops": "FLOP",
    "special_flops": "FLOP",
    "hbm_bytes": "bytes",
    "l2_bytes": "bytes",
    "link_bytes": "bytes",
    "depth": "",
    "launches": "",
    "footprint_bytes": "bytes",
}


def predict(
    layer: o.LayerName,
    machine: o.Machine,
    defines: o.Defines = [],
    settings: o.Settings = [],
    device_set: o.DeviceSettings = [],
    rung: o.Rung = None,
    state: o.State = "warm",
    framework: o.Framework = None,
    kernel: o.Kernel = None,
    as_json: o.AsJson = False,
) -> None:
    """Predict the time of a layer on a device, and what limits it."""
    from costmodel.predict import predict as answer

    (found,) = o.layers([layer], settings)
    shapes = o.sizes(defines)
    varied = [name for name, value in shapes.items() if not isinstance(value, float)]
    if varied:
        from costmodel.sweep import product

        shapes = dict(product(shapes))
    prediction = answer(
        found,
        o.device(machine, device_set),
        shapes,
        rung=rung,
        state=state,
        framework=framework,
        kernel=kernel,
    )
    if as_json:
        output.print_json(prediction.to_dict())
    elif varied:
        _print_many(prediction, varied)
    else:
        _print_one(prediction)


def _print_many(p: Prediction, varied: Sequence[str]) -> None:
    columns: list[Any] = [*(p.shapes[name] for name in varied), p.seconds, p.lower_s, p.bound]
    rows = [
        [*(in_full(size) for size in sizes), output.seconds(time), output.seconds(lower), limit]
        for *sizes, time, lower, limit in zip(*columns, strict=True)
    ]
    output.print_table([*varied, "time", "lower bound", "limited by"], rows, left=0)
    print(_footer(p))


def _print_one(p: Prediction) -> None:
    # Everything is computed before the first line is printed, so that an error leaves no partial answer.
    lines = [p.layer.label + " on " + p.device.name]
    lines.append(f"  {output.sizes(p.sizes)}")
    lines.append(f"  time         {output.seconds(p.seconds)}, limited by {p.bound}")
    if not math.isnan(p.lo80_s):
        inside = "" if p.in_range else "; outside the sizes that the constants were fitted on"
        lines.append(f"  80 % within  {output.seconds(p.lo80_s)} to {output.seconds(p.hi80_s)}{inside}")
    lines.append(f"  lower bound  {output.seconds(p.lower_s)}")
    lines.append(f"  in series    {output.seconds(p.serial_s)}")
    if p.seconds:  # a single device exchanges nothing and takes no time
        lines.append(f"  reaches      {_reached(p)}")
    counts = {name: value for name, value in p.counts.items() if name in SHOWN and value}
    lines += [f"  {name:<15}  {output.count(value, SHOWN[name])}" for name, value in counts.items()]
    rows = [
        [f"  {_named(row)}", output.seconds(row["seconds"]), row["bound"], row["constants_from"]]
        for row in kernels_run(p)
    ]
    print("\n".join(lines))
    if len(rows) > 1:
        output.print_table(["  kernel", "time", "limited by", "constants from"], rows)
    print(_footer(p))


def _named(row: Mapping[str, Any]) -> str:
    """Return a kernel's name and how many times it runs, whose times are added up in its row."""
    times = row["repeats"]
    return row["phase"] if times == 1 else f"{row['phase']} × {times:,.4g}"


def _reached(p: Prediction) -> str:
    """Return the achieved rates of products, links and memory traffic, with their shares of the device's."""
    bandwidth = p.hbm_bytes / p.seconds
    share = bandwidth / p.device.hbm_bandwidth
    # A share that is printed as 100.0% is not more than all.
    more = share > 1.0005 and p.state == "warm"
    cached = ", from the cache in part (--state cold: all from memory)" if more else ""
    found = [f"{output.count(bandwidth, 'bytes/s')}, {share:.1%} of hbm{cached}"]
    if sent := p.counts.get("link_bytes"):
        # Without a share: a switch that adds counts bytes that no link carries.
        found.insert(0, f"{output.count(sent / p.seconds, 'bytes/s')} over links")
    if p.matrix_flops:
        reached = f"{p.utilisation:.1%} of {p.device.engine(p.layer.dtype)}:{p.layer.dtype}"
        found.insert(0, f"{output.count(p.matrix_flops / p.seconds, 'FLOP/s')}, {reached}")
    return "; ".join(found)


def _footer(p: Prediction) -> str:
    lines = [f"rung {p.rung} ({p.state}), constants from {p.constants_from}"]
    fits = [p.fits] if not p.shape else p.fits.tolist()
    if not all(fits):
        which = "does" if len(fits) == 1 else f"{fits.count(False):,} of {len(fits):,} do"
        lines.insert(
            0, f"{which} not fit the device's memory of {output.count(p.device.hbm_capacity, 'bytes')}"
        )
    if p.missing:
        lines.append(f"no figure in the spec for: {', '.join(p.missing)}")
    if p.device.assumed:
        lines.append(f"assumed in the spec: {', '.join(p.device.assumed)}")
    lines.append(output.signature(p.device.spec_hash))
    return "\n".join(lines)


def crossover(
    first: o.LayerName,
    second: o.LayerName,
    over: Annotated[str, typer.Option(metavar="SIZE", help="The size to vary, from 1 up: seq, …")],
    machine: Annotated[
        str | None,
        typer.Option("-m", "--machine", metavar="DEVICE", help="A device; needed to compare seconds."),
    ] = None,
    of: Annotated[
        str, typer.Option(metavar="QUANTITY", help="seconds, flops, hbm_bytes, link_bytes or depth.")
    ] = "seconds",
    defines: o.SingleDefines = [],
    settings: o.Settings = [],
    device_set: o.DeviceSettings = [],
    rung: o.Rung = None,
    as_json: o.AsJson = False,
) -> None:
    """Find where one layer overtakes another as one size grows."""
    from costmodel.crossing import crossover as find

    if machine is None:
        o.check_alone("crossover", {"--device-set": next(iter(device_set), None), "--rung": rung})
        if of == "seconds":
            raise CostmodelError(
                "crossover: seconds needs a device: -m DEVICE; counts (--of flops, …) need none"
            )
    a, b = o.layers([first, second], settings)
    device = o.device(machine, device_set) if machine else None
    sizes = o.single_sizes("crossover", defines, f"only {over} varies (--over)")
    o.say_what_is_taken_twice((a, b), sizes)
    found = find(a, b, device, over=over, of=of, rung=rung, **sizes)
    if as_json:
        where = {} if device is None else {"device": device.name, "spec_hash": device.spec_hash}
        output.print_json(found.to_dict() | where)
        return
    print(found)
    if device is not None and found.grounds:
        said = {
            each["layer"]: f"rung {each['rung']}, constants from {each['constants_from']}"
            for each in found.grounds
        }
        alike = len(set(said.values())) == 1
        # If they differ, each layer has its own line, so that the constants can be told apart.
        lines = set(said.values()) if alike else [f"{layer}: {words}" for layer, words in said.items()]
        print("\n".join([*lines, *_uneven(found), output.signature(device.spec_hash)]))


def _uneven(found: Crossover) -> list[str]:
    """Return a line of warning if constants were measured for one of two layers only."""
    guessed = [each["layer"] for each in found.grounds if each["constants_from"] == "none"]
    if len(guessed) != 1:
        return []
    (known,) = (name for name in (found.first, found.second) if name != guessed[0])
    return [f"no kernel of {guessed[0]} was measured: its time is less certain than that of {known}"]


COMMANDS = (
    (
        "predict",
        predict,
        "costmodel predict tiled-attention -m h200-sxm -D batch=4 heads=32 seq=8192 head_dim=128",
    ),
    (
        "sweep",
        sweep,
        "costmodel sweep lstm gru -m h200-sxm mi300x -D seq=128..65536:log2 batch=8 hidden=1024 -o sweep.csv",
    ),
    (
        "crossover",
        crossover,
        "costmodel crossover lstm tiled-attention -m h200-sxm --over seq "
        "-D batch=8 hidden=1024 heads=16 head_dim=64",
    ),
)
