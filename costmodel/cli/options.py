"""Options shared by commands, and their values read into layers, devices and sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from costmodel.cli import output
from costmodel.errors import CostmodelError, SizeError, UnknownNameError, unknown_name
from costmodel.units import in_full

if TYPE_CHECKING:
    from costmodel.hardware import Device
    from costmodel.layers import Layer

#: Largest number of values of one size: more are a typing error.
MOST_VALUES = 10_000_000
#: Largest price of a device per hour: more, such as inf, is a typing error.
MOST_PRICE = 1e6

LayerName = Annotated[
    str,
    typer.Argument(metavar="LAYER", help="A layer, with its options in brackets: lstm, 'gru[bias=false]'."),
]
Machine = Annotated[
    str,
    typer.Option("-m", "--machine", metavar="DEVICE", help="A device, by name or spec file."),
]
Machines = Annotated[
    list[str],
    typer.Option(
        "-m", "--machine", metavar="DEVICE", help="Devices, by name or spec file: -m h200-sxm mi300x."
    ),
]
Defines = Annotated[
    list[str],
    typer.Option(
        "-D",
        "--define",
        metavar="SIZE=VALUE",
        help="Sizes: seq=8192 batch=4; lists: seq=1,2,4; ranges: seq=128..65536:log2, seq=100..1000:100.",
    ),
]
SingleDefines = Annotated[
    list[str],
    typer.Option("-D", "--define", metavar="SIZE=VALUE", help="Sizes, one value each: seq=8192 batch=4."),
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="OPTION=VALUE",
        help="Options of the layer: causal=true dtype=fp16; `costmodel show LAYER` explains them.",
    ),
]
ModelSettings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="OPTION=VALUE",
        help="Options of the layer: causal=true dtype=fp16; `costmodel show LAYER` explains them. "
        "Of a model: dtype=fp8 weights=int4 cache=fp8.",
    ),
]
DeviceSettings = Annotated[
    list[str],
    typer.Option(
        "--device-set",
        metavar="FIGURE=VALUE",
        help="Change the device: hbm='6 TB/s' l2=4x link=2x network='50 GB/s'.",
    ),
]
Rung = Annotated[
    str | None,
    typer.Option(
        metavar="RUNG",
        help="bound (datasheet), kernel (models of kernels) or calibrated (constants fitted on the device); "
        "default: the last of these that is available.",
    ),
]
State = Annotated[
    str, typer.Option(metavar="STATE", help="warm or cold: whether inputs start in the caches.")
]


def _known(framework: str | None) -> str | None:
    """Refuse an unknown framework."""
    if framework is not None:
        from costmodel.calibration import check_framework

        check_framework(framework)
    return framework


Framework = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Framework that runs the kernels: pytorch, vllm, …", callback=_known),
]
Kernel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Name of the kernel: fa2, fa3, flashinfer, …; for products a tile: sgemm_128x64."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]

#: Endings of YAML files.
_YAML = (".yaml", ".yml")
#: Keys of a model's YAML file; a device's spec has neither.
_OF_A_MODEL = ("figures", "model_type")
_BRACKETS = re.compile(r"(?P<name>[^\[\]]+)(?:\[(?P<options>[^\[\]]*)\])?\Z")


def pairs(settings: Iterable[str], example: str) -> dict[str, str]:
    """Return ``["a=1", "b=2"]`` as a mapping.

    Raises
    ------
    CostmodelError
        If an entry is not NAME=VALUE, or a name is repeated.
    """
    found: dict[str, str] = {}
    for setting in settings:
        name, equals, value = (part.strip() for part in setting.partition("="))
        if not (name and equals and value):
            raise CostmodelError(f"wanted NAME=VALUE, such as {example}, got {setting!r}")
        if name in found:
            raise CostmodelError(f"{name} is given twice: {found[name]!r} and {value!r}")
        found[name] = value
    return found


# -- sizes -------------------------------------------------------------------------------------


def sizes(defines: Iterable[str]) -> dict[str, Any]:
    """Return sizes by name: a number, or an array for a list or a range.

    Raises
    ------
    CostmodelError, SizeError
        If an entry is not SIZE=VALUE, or a value is not a whole number of at least 1.
    """
    return {name: _values(name, text) for name, text in pairs(defines, "seq=8192").items()}


def single_sizes(command: str, defines: Iterable[str], many: str) -> dict[str, Any]:
    """Return sizes of one value each; `many` says in the error how to get several.

    Raises
    ------
    CostmodelError, SizeError
        See `sizes`; also if a size has several values.
    """
    found = sizes(defines)
    for name, value in found.items():
        if not isinstance(value, float):
            raise SizeError(f"{command}: wanted one value of {name}, got {len(value)}; {many}")
    return found


def _values(name: str, text: str) -> Any:
    if ".." in text:
        return _range(name, text)
    values = [_number(name, part) for part in text.split(",")]
    if len(values) == 1:
        return values[0]
    import numpy as np

    return np.array(values)


def _range(name: str, text: str) -> Any:
    import numpy as np

    limits, _, step = text.partition(":")
    start, stop = (_number(name, part) for part in limits.split("..", 1))
    if not start <= stop:
        raise SizeError(f"size {name}: wanted a range that goes up, such as 128..65536:log2, got {text!r}")
    if step == "log2":
        doublings = int(math.log2(stop / start) + 1e-9)
        return start * 2.0 ** np.arange(doublings + 1)
    if step and not step[0].isdigit() and step[0] not in "+-.":
        raise SizeError(f"size {name}: wanted a step of log2 or a number, as in {limits}:log2, got {step!r}")
    width = _number(name, step or "1")
    if (stop - start) / width >= MOST_VALUES:
        raise SizeError(
            f"size {name}: wanted at most {MOST_VALUES:,} values, got {text!r}; "
            f"give a step, such as {limits}:log2"
        )
    return np.arange(start, stop + 1, width)


def _number(name: str, text: str) -> float:
    from costmodel.symbols import GLOSSARY

    if name not in GLOSSARY:
        raise unknown_name("size", name, GLOSSARY)
    largest = GLOSSARY[name].largest
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if number > largest:
        raise SizeError(f"size {name}: wanted at most {in_full(largest)}, got {_short(text)}")
    if not (number >= 1 and number.is_integer()):
        raise SizeError(f"size {name}: wanted a whole number of at least 1, got {_short(text)!r}")
    return number


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


def check_alone(
    command: str, options: Mapping[str, str | None], *, what: str = "a device too: -m DEVICE"
) -> None:
    """Refuse options that need something that is not given: `what`, a device by default."""
    for option, given in options.items():
        if given is not None:
            raise CostmodelError(f"{command}: {option} {given} needs {what}")


# -- layers and devices ------------------------------------------------------------------------


def layers(texts: Iterable[str], settings: Iterable[str]) -> list[Layer]:
    """Return layers, each with the shared settings that it has as options.

    Parameters
    ----------
    texts : iterable of str
        ``lstm``, or with its own options: ``tiled-attention[fp16,schedule=fa1]``.
    settings : iterable of str
        OPTION=VALUE.

    Raises
    ------
    UnknownNameError, CostmodelError
        If a layer is unknown, no layer has an option, a value is invalid, or an option is given twice.
    """
    shared = pairs(settings, "causal=true")
    parsed = [(_kind(name), own) for name, own in map(_bracketed, texts)]
    for kind, own in parsed:
        for option in own.keys() & shared.keys():
            raise CostmodelError(
                f"{option} of {kind.name} is given twice: {own[option]!r} in brackets and {shared[option]!r}"
            )
        if own.get("dtype") in kind.option_types():
            raise CostmodelError(f"option {own['dtype']} of {kind.name}: wanted {own['dtype']}=VALUE")
    known = {option for kind, _ in parsed for option in kind.option_types()}
    for option in shared:
        if option not in known:
            raise unknown_name(f"option of {', '.join(kind.name for kind, _ in parsed)}", option, known)
    return [
        kind.from_text({o: v for o, v in shared.items() if o in kind.option_types()} | own)
        for kind, own in parsed
    ]


def say_what_is_taken_twice(layers: Iterable[Layer], sizes: Mapping[str, Any]) -> None:
    """Warn if a size that one layer needs overrides another's default, such as LSTM's width in Mamba."""
    from costmodel.evaluate import bind

    every = list(layers)
    ends = {name: value if isinstance(value, float) else float(value[-1]) for name, value in sizes.items()}
    needed = {name for layer in every for name in layer.required}
    for layer in every:
        for name in sorted(needed & ends.keys() & layer.defaults.keys()):
            others = [size for size in layer.sizes() if size in ends and size != name]
            try:
                default = bind(layer, dict.fromkeys(layer.required, 1.0) | {o: ends[o] for o in others})[name]
            except CostmodelError:
                continue  # the prediction will raise the same error
            if default != ends[name]:
                output.say(
                    f"{name} is set for {layer.name} too, whose default is {name}={layer.defaults[name]}; "
                    "predict it separately to keep that default"
                )


def _kind(name: str) -> type[Layer]:
    """Return the layer class of a name; for a model's name, say which commands take models."""
    from costmodel.layers import get

    try:
        return get(name)
    except UnknownNameError:
        from costmodel.models import available

        if name not in available() and not is_configuration(name):
            raise
    raise CostmodelError(
        f"{name} is a model, not a layer: use `costmodel model {name}`, or `explain` or `sweep` with --use"
    )


def is_given(option: str, texts: Iterable[str], settings: Iterable[str]) -> bool:
    """Return whether an option is set, for all layers or for one in its brackets; see `layers`."""
    return option in pairs(settings, "causal=true") or any(option in own for _, own in map(_bracketed, texts))


def _bracketed(text: str) -> tuple[str, dict[str, str]]:
    """Return ``name[fp16,causal=true]`` as name and options."""
    match = _BRACKETS.match(text)
    if match is None:
        raise CostmodelError(f"wanted LAYER or LAYER[OPTION=VALUE,…], got {text!r}")
    parts = [part for part in (match["options"] or "").split(",") if part]
    settings = [part if "=" in part else f"dtype={part}" for part in parts]
    return match["name"].strip(), pairs(settings, "lstm[dtype=fp16,bias=false]")


def is_device(name: str) -> bool:
    """Return whether a name is a device's, in any accepted spelling."""
    from costmodel import hardware

    try:
        hardware.resolve(name)
    except UnknownNameError:
        return False
    return True


def is_configuration(name: str) -> bool:
    """Return whether a name is of a model's file, or of its folder, as `models.load` takes it."""
    if name.endswith(_YAML):
        return _is_of_a_model(Path(name))
    return name.endswith(".json") or (Path(name) / "config.json").is_file()


def _is_of_a_model(path: Path) -> bool:
    """Return whether a YAML file is a model's: a device's spec has the same ending."""
    from costmodel.hardware import yamlfile

    try:
        keys = yamlfile.parse(yamlfile.read_text(path)).data
    except CostmodelError:
        return False  # reading it as a device's spec says what is wrong
    return any(key in keys for key in _OF_A_MODEL)


def layers_and_devices(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the names that are layers and those that are devices: ``-m h200-sxm a100-pcie-40gb`` has two."""
    from costmodel.layers import classes

    layers: list[str] = []
    devices: list[str] = []
    for name in names:
        of_a_file = (name.endswith(_YAML) or "/" in name) and not is_configuration(name)
        is_layer = name.partition("[")[0] in classes() or not (of_a_file or is_device(name))
        (layers if is_layer else devices).append(name)
    return layers, devices


def device(name: str, settings: Iterable[str] = ()) -> Device:
    """Return a device with the changes of ``--device-set``.

    Raises
    ------
    UnknownNameError, SpecError
        If the device or a figure is unknown, or a value is impossible.
    """
    from costmodel import hardware

    machine = hardware.load(name)
    changes = hardware.parse_device_set(settings)
    return machine.replace(**changes) if changes else machine
