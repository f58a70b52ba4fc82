"""Content of the live explorer: layers as programs, devices as figures, sizes as sliders.

This module is above the reports, which know neither layers nor devices; `costmodel.reports.explorer` makes
the page.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import ArrayLike

from costmodel import hardware, reports
from costmodel.arguments import typed
from costmodel.errors import CostmodelError, SizeError, UnavailableError
from costmodel.evaluate import as_size, check_taken
from costmodel.facts import facts_of
from costmodel.hardware import whatif
from costmodel.layers import Layer, classes, get, option_text
from costmodel.plan import check_runs
from costmodel.predict import as_device
from costmodel.programs import defaults, free_tile, program, rules
from costmodel.reports.explorer_page import FIGURES
from costmodel.symbols import DEVICE_SIZES, GLOSSARY

#: Layers of an explorer by default.
LAYERS = (
    get("lstm")(),
    get("dense-attention")(projections=True),  # type: ignore[call-arg]
    get("tiled-attention")(projections=True),  # type: ignore[call-arg]
)
#: The device shown at first, if it is among those on offer.
FIRST = "nvidia/h200-sxm"

#: Options that the reader sets for all layers that have them, if these layers start with the same value.
SHARED: dict[str, tuple[Any, ...]] = {
    "dtype": ("fp32", "tf32", "bf16", "fp16", "fp8"),
    "direction": ("fwd", "fwd+bwd"),
    "causal": (False, True),
    "schedule": ("fa1", "fa2"),
    "tile": (None, "free"),
}

#: Sizes derived from the one width slider, in the layers that need them: so that layers are comparable.
TIED = {"hidden": "width", "d_model": "width", "head_dim": "width/heads"}
#: Start values of sizes; all others start at 64.
START = {"batch": 8, "seq": 4096, "width": 1024, "heads": 16, "seq_kv": 8192, "vocab": 32768}
START |= {"m": 4096, "n": 4096, "k": 4096, "experts": 8, "top_k": 2, "devices": 8}
START |= {"tile_rows": 128, "tile_cols": 64}
#: Least and greatest stop of a slider and stops per octave; others have 1 to 65,536, one per octave.
STOPS = {
    "batch": (1, 1024, 1),
    "seq": (1, 2**20, 4),
    "seq_kv": (1, 2**20, 4),
    "width": (64, 2**15, 2),
    "hidden": (64, 2**15, 2),
    "d_model": (64, 2**15, 2),
    "d_ff": (64, 2**17, 2),
    "heads": (1, 256, 1),
    "kv_heads": (1, 256, 1),
    "head_dim": (8, 1024, 2),
    "num_layers": (1, 128, 2),
    "tile_rows": (16, 1024, 1),
    "tile_cols": (16, 1024, 1),
}
WORDS = {
    "width": "width of the layers: their state, their model, all heads together",
    "tile_rows": "rows of Q in a tile, B_r",
    "tile_cols": "rows of K and V in a tile, B_c",
}


@typed
def page(
    layers: Sequence[Layer] = LAYERS,
    devices: Sequence[hardware.Device | str | Path] | None = None,
    sizes: Mapping[str, ArrayLike] | None = None,
    *,
    title: str | None = None,
    command: str = "costmodel explore -o explorer.html",
) -> reports.Page:
    """Return the page that recomputes layers on devices in the reader's browser, at rung ``bound``.

    Parameters
    ----------
    layers : sequence of Layer
        The layers to compare. The page can change those options in which all of them agree.
    devices : sequence of Device, str or Path, optional
        Devices to choose from; default: all shipped devices.
    sizes : mapping of str to float, optional
        Start values of sizes. A size with a default follows that default unless it is given here.
    title : str, optional
        Default: the layers' names.
    command : str
        The command that made the page, shown on it.

    Raises
    ------
    UnknownNameError, SizeError, CostmodelError
        If a device or a size is unknown, or two layers are the same.
    UnavailableError
        If no device computes in the layers' number formats, or altair or vl-convert is not installed.
    """
    found = list({device.name: device for device in map(as_device, devices or hardware.available())}.values())
    given = _given(sizes or {}, layers)
    names = _names(layers)
    first = _first(layers, found)
    shared = _shared(layers, found)
    rows = [(device.name, layer.name) for device in found for layer in layers]
    frame = pd.DataFrame(rows, columns=["device", "layer"])
    return reports.explorer(
        reports.Explorer(
            devices=[_device(device) for device in found],
            first=first,
            choices=[{"name": name, **choice} for name, choice in shared.items()],
            layers=[_layer(layer, name, shared, found) for layer, name in zip(layers, names, strict=True)],
            controls=_controls(layers, given, "tile" in shared),
            tied={name: f"datum.{text.replace('/', '/datum.')}" for name, text in TIED.items()},
            facts=facts_of(frame, {device.name: device for device in found}),
        ),
        title=title,
        command=command,
    )


def fitted(layers: Sequence[Layer], devices: Sequence[hardware.Device]) -> list[Layer]:
    """Return the layers in a number format that a device has; for layers whose format nobody chose.

    They keep their own format if one of the devices computes in it; else they get the 16-bit format of the
    first device, or fp32 if it has none.
    """
    try:
        _first(layers, devices)
    except UnavailableError:
        native = devices[0].native_16bit or "fp32"
        return [dataclasses.replace(layer, dtype=native) for layer in layers]
    return list(layers)


def _first(layers: Sequence[Layer], devices: Sequence[hardware.Device]) -> int:
    """Return the index of the device shown at first: one that runs all layers in their number formats.

    Raises
    ------
    UnavailableError
        If no device does; the text says what the first one has, or why it does not run them.
    """
    dtypes = dict.fromkeys(dtype for layer in layers for dtype in _products(layer))
    able = [
        i
        for i, device in enumerate(devices)
        if all(device.has(dtype) for dtype in dtypes) and not any(_refusal(layer, device) for layer in layers)
    ]
    if not able:
        for dtype in dtypes:
            devices[0].peak(dtype)  # raises for the first format it lacks, and names those it has
        for layer in layers:
            check_runs(layer, devices[0])
    return next((i for i in able if devices[i].name == FIRST), able[0])


def _products(layer: Layer) -> set[str]:
    """Return the number formats of a layer's matrix products: without their rates it has no time."""
    return {dtype for phase in layer.cost.phases for engine, dtype in phase.flops if engine == "matrix"}


def _refusal(layer: Layer, device: hardware.Device) -> str:
    """Return why a device cannot run a layer at all; empty if it can."""
    try:
        check_runs(layer, device)
    except UnavailableError as error:
        return str(error)
    return ""


def _given(sizes: Mapping[str, ArrayLike], layers: Sequence[Layer]) -> dict[str, float]:
    """Return the start values of sizes; refuse a size that no layer takes, or one of several values."""
    check_taken(sizes, layers)
    found = {name: as_size(name, value) for name, value in sizes.items()}
    for name, value in found.items():
        if not isinstance(value, float):
            raise SizeError(f"size {name}: wanted one start value, got {value.size}")
    return {name: float(value) for name, value in found.items()}


def _names(layers: Sequence[Layer]) -> list[str]:
    """Return a name for each layer: its own, with options where two layers share it."""
    plain = [layer.name for layer in layers]
    names = [
        layer.name if plain.count(layer.name) == 1 else layer.label.replace(f"[{layer.dtype},", "[")
        for layer in layers
    ]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CostmodelError(f"{twice} is given twice; give it once, or with other options")
    if not names:
        raise CostmodelError("wanted at least one layer to explore")
    return names


# -- options -----------------------------------------------------------------------------------


def _shared(layers: Sequence[Layer], devices: Sequence[hardware.Device]) -> dict[str, dict[str, Any]]:
    """Return the options that the reader sets, with their values and the first one shown.

    Number formats: those that some device has, and the layers' own (a layer without products needs no rate).
    """
    found = {}
    for option, values in SHARED.items():
        having = [layer for layer in layers if _has(layer, option)]
        first = {getattr(layer, option) for layer in having}
        if len(first) == 1 and first <= set(values):
            common = [v for v in values if all(v in getattr(la, f"{option}s", values) for la in having)]
            if option == "dtype":
                common = [v for v in common if v in first or any(each.has(v) for each in devices)]
            found[option] = {"values": [option_text(v) for v in common], "first": option_text(first.pop())}
    return found


def _has(layer: Layer, option: str) -> bool:
    """Return whether a layer has an option. A model has none: only its parts have options."""
    return _is_named(layer) and hasattr(layer, option)


def _is_named(layer: Layer) -> bool:
    """Return whether a layer is one of the package's, known to the command line by name."""
    return classes().get(layer.name) is type(layer)


def _layer(
    layer: Layer, name: str, shared: Mapping[str, Any], devices: Sequence[hardware.Device]
) -> dict[str, Any]:
    """Return a layer for the page: its sizes, size rules, and a program for each variant of its options."""
    takes = [option for option in shared if _has(layer, option)]
    variants: dict[str, Any] = {}
    for values in itertools.product(*(shared[option]["values"] for option in takes)):
        variants["|".join(values)] = _variant(layer, dict(zip(takes, values, strict=True)), devices)
    own = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer) if f.name not in takes}
    changed = {n: v for n, v in own.items() if v != getattr(type(layer), n, None)}
    options = [f"{option}={option_text(value)}" for option, value in changed.items()]
    return {
        "name": name,
        "kind": layer.name if _is_named(layer) else None,
        "options": options if _is_named(layer) else [],
        "takes": takes,
        "required": list(layer.required),
        "sizes": list(layer.sizes()),
        "defaults": defaults(layer),
        "variants": variants,
    }


def _variant(layer: Layer, options: Mapping[str, str], devices: Sequence[hardware.Device]) -> dict[str, Any]:
    """Return the program of a layer with options in the page's text form, or why there is none."""
    kinds = layer.option_types()
    plain: dict[str, Any] = {
        name: text == "true" if kinds[name] is bool else text
        for name, text in options.items()
        if name != "tile"
    }
    try:
        set_so = dataclasses.replace(layer, **plain)
        if options.get("tile") == "free":
            set_so = free_tile(set_so)
        made = program(set_so)
    except CostmodelError as error:
        return {"refused": str(error)}
    refused = {device.name: _refusal(set_so, device) for device in devices}
    return {
        "refused_on": {name: why for name, why in refused.items() if why},
        "steps": made.steps,
        "limits": made.limits,
        "rates": [list(rate) for rate in made.rates],
        "boosts": made.boosts,
        "rules": rules(set_so),
    }


# -- sizes -------------------------------------------------------------------------------------


def _controls(layers: Sequence[Layer], given: Mapping[str, Any], tile: bool) -> list[dict[str, Any]]:
    """Return the sliders: sizes that layers need, the width they share, and sizes with a default."""
    needed = list(dict.fromkeys(name for layer in layers for name in layer.required))
    optional = dict.fromkeys(name for layer in layers for name in layer.defaults if name not in needed)
    tied = [name for name in needed if name in TIED and name not in given]
    names = [name for name in needed if name not in tied]
    if tied:
        names.insert(min(2, len(names)), "width")
    if "head_dim" in tied and "heads" not in names:
        names.append("heads")
    controls = [_control(name, given.get(name, START.get(name, 64)), "size") for name in names]
    controls += [_control(n, given.get(n), "size" if n in given else "more") for n in (*optional, *tied)]
    if tile:
        controls += [_control(name, START[name], "tile") for name in ("tile_rows", "tile_cols")]
    return [control for control in controls if control["name"] not in DEVICE_SIZES]


def _control(name: str, value: float | None, group: str) -> dict[str, Any]:
    size = GLOSSARY.get(name)
    low, high, octave = STOPS.get(name, (1, 65536, 1))
    octaves = range(int(math.log2(high / low)) + 1)
    stops = [round(low * 2**i * (1 + j / octave)) for i in octaves for j in range(octave)]
    return {
        "name": name,
        "meaning": size.meaning if size else WORDS[name],
        "largest": size.largest if size else 2.0**40,
        "value": value,
        "stops": sorted({stop for stop in stops if stop <= high}),
        "group": group,
    }


# -- devices -----------------------------------------------------------------------------------


def _device(device: hardware.Device) -> dict[str, Any]:
    """Return the device figures that rung ``bound`` needs, in SI units."""
    rates: dict[str, dict[str, list[float]]] = {}
    for engine, table in device.spec.compute:
        rates[engine] = {d: [device.peak(d, engine), device.boost_peak(d, engine)] for d in table}
    memory = device.spec.memory
    return {
        "name": device.name,
        "title": device.title,
        "vendor": device.vendor,
        "rates": rates,
        "ratios": {"matrix": device.peak_clock_ratio, "vector": device.vector_clock_ratio},
        "hbm": device.hbm_bandwidth,
        "hbm_capacity": device.hbm_capacity,
        "l2": device.l2_capacity,
        "l3": memory.l3.capacity.si if memory.l3 else 0.0,
        "shared": device.shared_per_unit,
        "registers": device.registers_per_unit,
        "units": device.units,
        "launch": device.launch_s,
        "step": device.step_s,
        "link": device.link_bandwidth,
        "sums": device.sum_bandwidth,
        "missing": list(device.missing),
        "assumed": list(device.assumed),
        "spec_hash": device.spec_hash,
        "limits": _limits(device),
    }


def _limits(device: hardware.Device) -> dict[str, tuple[float, float]]:
    """Return the range of each figure that the reader may change [SI], the same as on the command line."""
    stands_for = {name: "fp32" if name == "peak" else name for name, *_ in FIGURES}  # all rates share a range
    found = whatif.bounds(device.spec, stands_for.values())
    return {name: found[figure] for name, figure in stands_for.items()}
