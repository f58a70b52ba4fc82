"""Command that says where a time goes and what would change it: ``explain``."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from costmodel.cli import options as o
from costmodel.cli import output
from costmodel.cli.uses import machines, say_if_too_long, say_if_wider_than_a_node, sizes_of_use, used
from costmodel.errors import CostmodelError

if TYPE_CHECKING:
    from costmodel.layers import Layer
    from costmodel.models import Model


def explain(
    name: Annotated[str, typer.Argument(metavar="LAYER", help="A layer; with --use, a model.")],
    machine: o.Machine,
    defines: o.SingleDefines,
    settings: o.ModelSettings = [],
    others: Annotated[
        list[str],
        typer.Option("--or", metavar="DEVICE", help="Another device to try; repeat it for several."),
    ] = [],
    use: Annotated[
        str | None, typer.Option(metavar="USE", help="For a model: training, prefill or decode.")
    ] = None,
    tensor: Annotated[
        int, typer.Option(metavar="N", help="For a model: devices of a node that share each layer.", min=1)
    ] = 1,
    device_set: o.DeviceSettings = [],
    rung: o.Rung = None,
    state: o.State = "warm",
    framework: o.Framework = None,
    kernel: o.Kernel = None,
    as_json: o.AsJson = False,
) -> None:
    """Say where the time goes, and what would shorten it.

    The answer has the time that each limit takes alone; how the roofline's time changes with each size and
    rate; and predictions with one thing changed: a figure of the device, an option, a format, another device.
    """
    from costmodel.explain import elasticities, what_if
    from costmodel.predict import predict

    layer = _layer(name, settings, use, tensor)
    device = o.device(machine, device_set)
    sizes = o.single_sizes("explain", defines, "`predict` and `sweep` take many")
    if use is not None:
        sizes = sizes_of_use("explain", cast("Model", layer), sizes, use)
    p = predict(layer, device, sizes, rung=rung, state=state, framework=framework, kernel=kernel)
    slopes = elasticities(p)
    limits = output.time_by(p.phases, output.limit_of)
    changes = what_if(p, [o.device(other) for other in others])
    if use is not None:
        say_if_too_long(layer.name, cast("Model", layer).context, sizes)
        say_if_wider_than_a_node(tensor, device)
    if as_json:
        answer = {"layer": layer.label, "device": device.name, "shapes": p.sizes, "seconds": p.seconds}
        answer |= {"tensor": tensor} if tensor > 1 else {}
        answer |= {"rung": p.rung, "constants_from": p.constants_from, "bound": p.bound}
        answer |= {
            "limits": limits,
            "limits_s": p.limits_s,
            "elasticities": slopes,
            "what_if": changes.to_dict("records"),
        }
        output.print_json(output.made_with(device.spec_hash) | answer)
        return
    on = machines(device, tensor)
    print(f"{layer.label} on {on}: {output.seconds(p.seconds)} ({p.rung}), limited by {p.bound}")
    whole, alone = sum(limits.values()), p.limits_s
    names = sorted(alone, key=lambda name: (limits.get(name, 0.0), alone[name]), reverse=True)
    where = [
        [
            name,
            output.seconds(limits.get(name, 0.0)),
            f"{limits.get(name, 0.0) / whole:.1%}",
            output.seconds(alone[name]),
        ]
        for name in names
    ]
    output.print_table(["where the time goes", "time", "share", "each limit alone"], where)
    print("\n1 % more of …, and the cold roofline's time changes by …")
    output.print_table(["of", "changes by"], [[n, f"{slope:+.2f} %"] for n, slope in slopes.items()])
    print()
    rows = [
        [row["change"], output.seconds(row["seconds"]), f"{row['speedup']:.2f} ×", _grounds(row)]
        for row in changes.to_dict("records")
    ]
    output.print_table(["what if", "time", "as fast", "rung and constants"], rows)
    if not changes["alike"].all():
        print("not comparable: those constants are of another number format than the present ones")
    print(output.signature(device.spec_hash))


def _grounds(row: dict[Hashable, Any]) -> str:
    unlike = "" if row["alike"] else "; not comparable"
    return f"{row['rung']}: {row['constants_from']}{unlike}"


def _layer(name: str, settings: list[str], use: str | None, tensor: int) -> Layer:
    """Return a layer, or a model in one of its uses, with its options set."""
    from costmodel.models import available

    if use is not None:
        return used(name, settings, use, tensor)
    if name in available():
        raise CostmodelError(f"{name} is a model: give --use training, prefill or decode")
    if tensor > 1:
        raise CostmodelError("--tensor applies to a model, with --use prefill or decode")
    (layer,) = o.layers([name], settings)
    return layer


COMMANDS = (
    (
        "explain",
        explain,
        "costmodel explain tiled-attention -m h200-sxm --or b200-sxm -D batch=1 seq=4096 heads=8 head_dim=64",
    ),
)
