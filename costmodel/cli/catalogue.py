"""Commands that list and check what is available: ``devices``, ``layers``, ``show``, ``check``."""

from __future__ import annotations

import dataclasses
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from costmodel.cli.options import AsJson, LayerName, Settings, layers
from costmodel.cli.output import print_folded, print_json, print_table, say
from costmodel.errors import SpecError

if TYPE_CHECKING:
    import sympy as sp

    from costmodel.hardware import Device
    from costmodel.layers import Layer

#: Formats whose peaks fit into the table of devices on a terminal of 80 columns.
SHOWN = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8")

#: Unit of each count that `show` prints.
COUNT_UNITS = {
    "matrix_flops": "FLOP",
    "vector_flops": "FLOP",
    "special_flops": "FLOP",
    "hbm_bytes": "bytes",
    "l2_bytes": "bytes",
    "link_bytes": "bytes",
    "compulsory_bytes": "bytes",
    "depth": "steps",
    "pram_depth": "operations",
    "path": "steps",
    "launches": "kernels",
    "footprint_bytes": "bytes",
    "kept_bytes": "bytes",
    "parameters": "numbers",
}


def show_devices(as_json: AsJson = False) -> None:
    """List the devices: peaks, bandwidth, ridge point, best rung."""
    from costmodel import calibration, hardware

    calibrated = set(calibration.calibrated_devices())
    rows = [_device(hardware.load(name), name in calibrated) for name in hardware.available()]
    for name in hardware.measured():
        try:
            rows.append(_device(hardware.load(name), calibration.path_of(name).is_file()))
        except SpecError as error:  # for example from an earlier version; the others are still listed
            say(str(error))
    if as_json:
        print_json(rows)
        return
    print("peaks in TFLOP/s, hbm in GB/s, ridge in FLOP/B of bf16, else fp16, else fp32")
    print_table(
        ["device", *SHOWN, "hbm", "ridge", "best rung"],
        [
            [
                row["device"],
                *(_short(row["peaks"][d] / 1e12) if d in row["peaks"] else "" for d in SHOWN),
                _short(row["hbm_bytes_per_s"] / 1e9),
                _short(row["ridge_flop_per_byte"]),
                row["best_rung"],
            ]
            for row in rows
        ],
    )


def _short(figure: float) -> str:
    """Return a figure with three digits, or all digits before the point: the table has nine such columns."""
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"


def _device(device: Device, calibrated: bool) -> dict[str, Any]:
    from costmodel.dtypes import DTYPES
    from costmodel.errors import UnavailableError

    peaks = {}
    for dtype in DTYPES:
        try:
            peaks[dtype] = device.peak(dtype)
        except UnavailableError:
            continue
    ridge = device.native_16bit or "fp32"
    return {
        "device": device.name,
        "title": device.title,
        "family": device.family,
        "year": device.year,
        "scope": device.scope,
        "peaks": peaks,
        "hbm_bytes_per_s": device.hbm_bandwidth,
        "hbm_bytes": device.hbm_capacity,
        "ridge_flop_per_byte": device.ridge(ridge),
        "ridge_dtype": ridge,
        "best_rung": "calibrated" if calibrated else "kernel",
        "spec_hash": device.spec_hash,
    }


def show_layers(as_json: AsJson = False) -> None:
    """List the layers by family: sizes, options and sources."""
    from costmodel.layers import classes, option_text

    rows = sorted((_layer(kind) for kind in classes().values()), key=lambda r: (r["family"], r["layer"]))
    if as_json:
        print_json(rows)
        return
    for family, members in groupby(rows, key=lambda row: row["family"]):
        print(f"{family}")
        for row in members:
            sizes = [*row["required"], *(f"[{name}={value}]" for name, value in row["defaults"].items())]
            options = (f"{name}={option_text(value['default'])}" for name, value in row["options"].items())
            print_folded(f"  {row['layer']}: {row['summary']}", 4)
            print_folded(f"    sizes    {' '.join(sizes)}", 13)
            print_folded(f"    options  {' '.join(options)}", 13)
            print_folded(f"    source   {row['source']}", 13)


def _layer(kind: type[Layer]) -> dict[str, Any]:
    types = kind.option_types()
    return {
        "layer": kind.name,
        "family": kind.family,
        "summary": (kind.__doc__ or "").strip().splitlines()[0],
        "required": list(kind().required),
        "defaults": dict(kind.defaults),
        "options": {
            f.name: {"default": f.default, "type": getattr(types[f.name], "__name__", str(types[f.name]))}
            for f in dataclasses.fields(kind)
        },
        "source": kind.source,
        "not_counted": kind.not_counted,
    }


def show(
    layer: LayerName,
    settings: Settings = [],
    latex: Annotated[bool, typer.Option("--latex", help="Print the formulas as LaTeX.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a layer's formulas, sizes, options and source.

    Each count has its formula, its unit and its growth; each size and option has its meaning. What is not
    counted is listed, too.
    """
    from costmodel.layers import option_text
    from costmodel.layers._options import option_meanings

    (found,) = layers([layer], settings)
    answer: dict[str, Any] = {
        "layer": found.name,
        "options": found.options,
        "counts": {name: _count(name, row, latex) for name, row in found.cost.rows().items()},
        "kernels": [phase.name for phase in found.cost.phases],
        "sizes": _sizes(found),
        "source": found.source,
        "not_counted": found.not_counted,
    }
    if as_json:
        print_json(answer)
        return
    print(found.label)
    for name, row in answer["counts"].items():
        print(f"\n{name} [{row['unit']}]")
        print_folded(f"  = {row['formula']}", 4)
        degrees = ", ".join(f"{size}^{power}" for size, power in row["degrees"].items())
        print_folded(f"  {row['class']}{f': grows as {degrees}' if degrees else ''}", 4)
    print("\nsizes")
    for name, size in answer["sizes"].items():
        # LaTeX's braces are only for --latex; classes of growth have none either.
        symbol = size["latex"] if latex else size["latex"].replace("{", "").replace("}", "")
        print_folded(f"  {name} ({symbol}): {size['meaning']}", 4)
    print("\noptions")
    words = option_meanings(type(found))
    for name, value in found.options.items():
        print_folded(f"  {name}={option_text(value)}: {words[name].replace('`', '')}", 4)
    print()
    print_folded(f"kernels      {'; '.join(answer['kernels'])}", 13)
    print_folded(f"source       {found.source}", 13)
    print_folded(f"not counted  {found.not_counted}", 13)


def _count(name: str, row: sp.Expr, in_latex: bool) -> dict[str, Any]:
    """Return a count's formula, unit and growth class, and its degree in each size."""
    from costmodel.asymptotics import complexity, degree
    from costmodel.cost import latex

    order = complexity(row)
    degrees = {s.name: degree(row, s) for s in sorted(row.free_symbols, key=lambda s: s.name)}
    return {
        "formula": latex(row) if in_latex else str(row),
        "unit": COUNT_UNITS[name],
        "class": order.latex if in_latex else str(order),
        "degrees": {size: str(power) for size, power in degrees.items()},
    }


def _sizes(layer: Layer) -> dict[str, dict[str, str]]:
    from costmodel.layers._base import glossary_lines
    from costmodel.symbols import GLOSSARY

    meanings = dict(glossary_lines(layer))
    used = {s.name for row in layer.cost.rows().values() for s in row.free_symbols}
    return {
        name: {"latex": size.latex, "meaning": meanings.get(name, size.meaning)}
        for name, size in GLOSSARY.items()
        if name in used or name in layer.sizes()
    }


def check(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="Spec file of a device.")],
    as_json: AsJson = False,
) -> None:
    """Find every fault of a device's spec, each with its line."""
    from costmodel import hardware

    faults = hardware.check(spec)
    if as_json:
        rows = [{"line": f.line, "key": ".".join(f.keys), "message": f.message} for f in faults]
        print_json({"file": str(spec), "sound": not faults, "faults": rows})
    else:
        for fault in faults:
            print(f"{spec}:{fault}")
    if faults:
        raise SpecError(f"{spec}: {len(faults)} fault{'s' if len(faults) > 1 else ''}")
    if not as_json:
        print(f"{spec}: sound")


COMMANDS = (
    ("devices", show_devices, "costmodel devices"),
    ("layers", show_layers, "costmodel layers"),
    ("show", show, "costmodel show tiled-attention --set causal=true --latex"),
    ("check", check, "costmodel check t4.yaml"),
)
