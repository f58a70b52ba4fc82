"""Command for whole models: ``model``."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from costmodel.cli import options as o
from costmodel.cli import output
from costmodel.cli.spending import Spent
from costmodel.cli.uses import MODEL_USES, machines, say_if_too_long, say_if_wider_than_a_node, sizes_of_use
from costmodel.errors import CostmodelError, SizeError, UnavailableError, unknown_name
from costmodel.files import check_writable

if TYPE_CHECKING:
    from costmodel.hardware import Device
    from costmodel.model_memory import Memory
    from costmodel.models import Architecture
    from costmodel.models.generation import Generation
    from costmodel.prediction import Prediction

#: Default number of tokens to generate.
NEW = 128
#: Uses of a model.
USES = (*MODEL_USES, "generation")


def model(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="A catalogue name, a config.json, its folder, or a YAML file; default: list all.",
        ),
    ] = [],
    machines: Annotated[
        list[str],
        typer.Option(
            "-m", "--machine", metavar="DEVICE", help="A device; needed for times. Several with --report."
        ),
    ] = [],
    defines: o.SingleDefines = [],
    use: Annotated[
        str, typer.Option(metavar="USE", help="What to predict: training, prefill, decode or generation.")
    ] = "prefill",
    new: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS", help=f"For generation: tokens after a prompt of seq tokens; default: {NEW}."
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="Number format of weights and activations.")
    ] = "bf16",
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT", help="Storage format of weights: int8, fp8, int4, fp4; not for training."
        ),
    ] = None,
    group: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="With --weights: weights per scale.", min=1, show_default="128 for 4 bits"
        ),
    ] = None,
    cache: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Storage format of keys and values: fp8.")
    ] = None,
    attention: Annotated[
        str,
        typer.Option(metavar="KIND", help="tiled (scores stay on the chip), dense or eager (they do not)."),
    ] = "tiled",
    recompute: Annotated[
        str,
        typer.Option(metavar="WHAT", help="For training: what backward recomputes: none, selective or full."),
    ] = "none",
    tensor: Annotated[
        int,
        typer.Option(
            metavar="N", help="Devices of a node that share each layer (for training: plan).", min=1
        ),
    ] = 1,
    price: Annotated[
        float | None,
        typer.Option(
            metavar="PRICE",
            help="Price of a device per hour, for that of a million tokens.",
            min=0.0,
            max=o.MOST_PRICE,
        ),
    ] = None,
    model_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Architecture to read a configuration as.")
    ] = None,
    device_set: o.DeviceSettings = [],
    rung: o.Rung = None,
    state: o.State = "warm",
    framework: o.Framework = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE.html", help="Write a page on all uses: what limits them, what would help."
        ),
    ] = None,
    force: o.Force = False,
    as_json: o.AsJson = False,
) -> None:
    """Show a whole model: parameters, cache, and times.

    With a device (-m): the time of one use, by part and by limit, its memory, energy and, with --price, cost.
    Without one, -D batch=… seq=… gives the size of the cache.
    """
    from costmodel.models import load

    of_device = {
        "--device-set": next(iter(device_set), None),
        "--rung": rung,
        "--tensor": str(tensor) if tensor > 1 else None,
        "--price": None if price is None else f"{price:g}",
        "--state": state if state != "warm" else None,
        "--framework": framework,
    }
    of_model = {"-D": next(iter(defines), None), "--weights": weights, "--cache": cache}
    if report is not None:
        check_writable(report, overwrite=force, suffixes=(".html",))
    if not names and not machines and report is None:
        o.check_alone("model", of_device)
        o.check_alone("model", of_model, what="a model too; `costmodel model` lists them")
        _list(as_json)
        return
    if use not in USES:
        raise unknown_name("use of a model", use, USES)
    if recompute != "none" and (use != "training" or report is not None):
        raise CostmodelError(
            "model: --recompute applies to --use training only; --report shows every choice of it"
        )
    if report is None:
        _check_use(use, attention=attention, new=new, stored=weights or cache)
    new = NEW if new is None else new
    name, more = _sorted(names)
    found = load(name, model_type=model_type).storing(weights, group=group, cache=cache)
    devices = [o.device(machine, device_set) for machine in (*machines, *more)]
    if weights is None and (use != "training" or report is not None):
        _check_rates(devices, dtype)
    if report is not None:
        if state != "warm" or framework is not None or tensor > 1 or price is not None:
            raise CostmodelError(
                "model: --report takes no --state, --framework, --tensor or --price: "
                "it compares devices as they are"
            )
        how = {"first": use, "new": new, "dtype": dtype, "attention": attention, "rung": rung}
        _report(found, devices, _sizes(defines), how, report, force, as_json)
        return
    if not devices:
        o.check_alone("model", of_device)
        _show(found, dtype, _sizes(defines), as_json)
        return
    if len(devices) > 1:
        raise CostmodelError(
            f"model: wanted one device, got {len(devices)}; --report PAGE.html takes several"
        )
    (device,) = devices
    found = found.tensor_parallel(tensor)
    how = {"rung": rung, "state": state, "framework": framework}
    if use == "generation":
        _generate(found, device, _sizes(defines), new, dtype, attention, price, how, as_json)
    else:
        _use(found, device, _sizes(defines), use, dtype, attention, recompute, price, how, as_json)


def _check_use(use: str, *, attention: str, new: int | None, stored: str | None) -> None:
    """Refuse options that a use does not have; a report shows all uses."""
    if attention != "tiled" and use == "decode":
        raise CostmodelError(
            "model: --attention applies to prefill, training and generation; decoding has its own"
        )
    if new is not None and use != "generation":
        raise CostmodelError("model: --new applies to --use generation only")
    if stored and use == "training":
        raise CostmodelError("model: --weights and --cache apply to prefill, decode and generation only")


def _check_rates(devices: Sequence[Device], dtype: str) -> None:
    """Refuse a narrow format that a device does not compute in, which weights may still be stored in."""
    from costmodel.dtypes import dtype as parse_dtype

    kind = parse_dtype(dtype)
    if kind.bytes >= 2:
        return  # the prediction refuses it
    for device in devices:
        try:
            device.peak(kind.name)
        except UnavailableError as error:
            raise UnavailableError(
                f"{error}; --weights {kind.name} stores weights in {kind.name} and computes in bf16"
            ) from None


def _generate(
    found: Architecture, device: Device, sizes: dict[str, float], new: int, dtype: str, attention: str,
    price: float | None, how: dict[str, Any], as_json: bool,
) -> None:  # fmt: skip
    """Print the times and memory of a generation, and whether it fits."""
    from costmodel.model_memory import Memory
    from costmodel.models.generation import generation

    prompt, batch = _prompt(sizes, found), int(sizes.get("batch", 1))
    answer = generation(
        found, device, prompt=prompt, new=new, batch=batch, dtype=dtype, attention=attention, **how
    )
    memory = Memory(architecture=found, device=device, dtype=dtype, attention=attention)
    _, most, length = memory.generating(prompt=prompt, new=new, batch=batch)
    kinds = _kinds(memory, most, batch=batch, length=length)
    lacking = memory.lacking(most, batch=batch, length=length)
    spent = Spent.of(found, device, answer.tokens_per_second, price)
    # An encoder's prompt and its decoder's tokens are two sequences.
    longest = max(prompt, new) if found.family.encodes else prompt + new
    say_if_too_long(found.name, found.context, {"seq": longest})
    say_if_wider_than_a_node(found.devices, device)
    _print_generation(found, answer, kinds, lacking, spent, as_json)


def _use(
    found: Architecture, device: Device, sizes: dict[str, float], use: str, dtype: str, attention: str,
    recompute: str, price: float | None, how: dict[str, Any], as_json: bool,
) -> None:  # fmt: skip
    """Print the times and memory of a use with a single pass, and whether it fits."""
    from costmodel.model_memory import Memory
    from costmodel.predict import predict

    if use == "training":
        chosen = found.training(dtype, attention=attention, recompute=recompute)
    else:
        chosen = found.decode(dtype) if use == "decode" else found.prefill(dtype, attention=attention)
    prediction = predict(chosen, device, sizes_of_use("model", chosen, sizes, use), **how)
    memory = Memory(architecture=found, device=device, dtype=dtype, attention=attention)
    shapes = {name: float(size) for name, size in prediction.sizes.items()}
    length = max((shapes[name] for name in ("seq", "seq_kv") if name in shapes), default=1.0)
    given: dict[str, Any] = {"batch": shapes["batch"], "recompute": recompute}
    lacking = memory.lacking(use, length=length, **given)
    kinds = _kinds(memory, use, length=length, **given)
    say_if_too_long(found.name, found.context, shapes)
    say_if_wider_than_a_node(found.devices, device)
    tokens = shapes["batch"] * (1.0 if use == "decode" else shapes.get("seq", 1.0))
    rate = tokens / prediction.seconds
    _print(found, prediction, rate, kinds, lacking, Spent.of(found, device, rate, price), as_json)


def _kinds(memory: Memory, use: str, *, length: float, **given: Any) -> dict[str, float]:
    """Return the memory of each kind at one length [bytes]."""
    return {kind: float(held[0]) for kind, held in memory.kinds(use, lengths=length, **given).items()}


def _sorted(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the model's name, which is the first that is no device's, and the names of devices."""
    from costmodel.models import available

    models = [name for name in names if not o.is_device(name)]
    if not models:
        raise CostmodelError("model: wanted a model besides the device; `costmodel model` lists them")
    also = next((name for name in models[1:] if name in available()), None)
    if also is not None:
        raise CostmodelError(f"model: wanted one model, got {models[0]} and {also}")
    return models[0], [name for name in names if name != models[0]]


def _report(
    found: Architecture,
    devices: Sequence[Device],
    sizes: dict[str, float],
    how: dict[str, Any],
    path: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Write the page of a model; with `as_json`, also print its answers for each use and device."""
    from costmodel import model_story, reports

    if not devices:
        raise CostmodelError("model: --report needs a device: -m DEVICE")
    lengths = {sizes[name] for name in ("seq", "seq_kv") if name in sizes}
    unknown = sorted(set(sizes) - {"batch", "seq", "seq_kv"})
    if unknown or len(lengths) != 1:
        raise SizeError(
            f"{found.name}: --report needs -D seq=… (one length for all uses), and may have batch=…"
        )
    shapes: dict[str, Any] = {"batch": int(sizes.get("batch", 1)), "seq": int(lengths.pop())}
    first = how.pop("first")
    frames = model_story.story(found, devices, **shapes, **how)
    say_if_too_long(found.name, found.context, shapes)
    page = reports.model(frames, first=first, command=output.command())
    output.write_page(page, path, overwrite=force)
    if as_json:
        answers = frames.answers.to_dict("records")
        output.print_json({"file": str(path), "model": found.name, "shapes": shapes, "answers": answers})


def _sizes(defines: list[str]) -> dict[str, float]:
    return o.single_sizes("model", defines, "`sweep` with --use takes many")


def _prompt(sizes: dict[str, float], found: Architecture) -> int:
    if "seq" not in sizes:
        raise SizeError(f"{found.name}: generation needs -D seq=…, the length of the prompt")
    others = [name for name in sizes if name not in ("seq", "batch")]
    if others:
        raise SizeError(f"{found.name}: generation takes -D seq=… batch=…, got {', '.join(others)} too")
    return int(sizes["seq"])


# -- the catalogue, and a model without a device -----------------------------------------------


def _list(as_json: bool) -> None:
    from costmodel.models import architectures, available, load, title

    rows = [(name, title(name), load(name)) for name in available()]
    if as_json:
        output.print_json(
            [{"model": n, "title": t, "parameters": a.parameters, "source": a.origin} for n, t, a in rows]
        )
        return
    output.print_table(
        ["model", "what", "parameters"], [[n, t, output.count(a.parameters)] for n, t, a in rows], left=2
    )
    known = textwrap.fill(", ".join(architectures()), 100)
    print(f"\nOther models are read from their config.json if its model_type is one of:\n{known}")


def _show(found: Architecture, dtype: str, sizes: dict[str, float], as_json: bool) -> None:
    from costmodel.dtypes import dtype as parse_dtype

    held = _held(found, dtype, sizes)
    say_if_too_long(found.name, found.context, sizes)
    whole = found.training(dtype, optimizer=None)
    parts: dict[str, int] = {}
    for part in whole.parts:
        own = 0 if part.shared else part.expression(part.layer.parameters()) * part.repeats
        parts[part.name] = parts.get(part.name, 0) + int(own + part.extra * part.repeats)
    cache = str(found.cache_bytes(dtype)) if found.family.decodes else None
    if as_json:
        output.print_json(
            {
                "model": found.name,
                "source": found.source,
                "parameters": found.parameters,
                "published": found.published,
                "cache_bytes": cache,
                "memory_bytes_by_kind": held,
                "parts": parts,
                "not_counted": found.left_out,
            }
        )
        return
    print(f"{found.name}: {found.parameters_text}")
    print(f"weights: {output.count(held['weights'], 'bytes')} in {found.weights or dtype}")
    if cache is not None:
        at = f"; {output.count(held['cache'], 'bytes')} at {output.sizes(sizes)}" if "cache" in held else ""
        kind = found.cache or parse_dtype(dtype).around.name
        print(f"cache of keys, values and states: {cache} bytes in {kind}{at}")
    rows = [[name, output.count(n), f"{n / found.parameters:.1%}"] for name, n in parts.items() if n]
    output.print_table(["part", "parameters", "share"], rows)
    print(f"source: {found.source}\nnot counted: {found.left_out}")


def _held(found: Architecture, dtype: str, sizes: dict[str, float]) -> dict[str, float]:
    """Return the memory of the weights and, if sizes are given, of the cache [bytes]."""
    from costmodel.evaluate import bind, compile_expressions

    use = "decode" if found.family.decodes else "prefill"
    model = found.decode(dtype) if found.family.decodes else found.prefill(dtype)
    tensors = model.held()
    if not sizes:
        return {"weights": float(tensors.learned)}
    bound = bind(model, sizes_of_use("model", model, sizes, use))
    cached = model.state + tensors.updated + tensors.left
    weights, cache = compile_expressions([tensors.learned, cached], list(bound))(*bound.values())
    return {"weights": float(weights), **({"cache": float(cache)} if found.family.decodes else {})}


# -- on a device -------------------------------------------------------------------------------


def _print(
    found: Architecture, p: Prediction, tokens_per_second: float, kinds: dict[str, float],
    lacking: str | None, spent: Spent, as_json: bool,
) -> None:  # fmt: skip
    from costmodel.models._part import part_of

    held = sum(kinds.values())
    by_part, by_limit = (output.time_by(p.phases, of) for of in (part_of, output.limit_of))
    if as_json:
        # Whether it fits depends on the room that a model has, as in the text: not all memory is the model's.
        room = {"fits": lacking is None, "lacking": lacking}
        answer = {**p.to_dict(), "model": found.name, "parameters": found.parameters, **room}
        answer |= {"memory_bytes": held, "memory_bytes_by_kind": kinds, "devices": found.devices}
        answer |= {"tokens_per_second": tokens_per_second, **asdict(spent)}
        output.print_json({**answer, "seconds_by_part": by_part, "seconds_by_bound": by_limit})
        return
    peak = p.device.peak(p.layer.dtype)
    lines = [
        f"{p.layer.label} on {machines(p.device, found.devices)}",
        f"  {output.sizes(p.sizes)}",
        f"  parameters   {found.parameters:,}",
        f"  FLOP         {output.count(p.matrix_flops, 'FLOP')} in products",
        f"  memory       {output.count(held, 'bytes')}{_by_kind(kinds)}",
        *([f"  does not fit {lacking}"] if lacking else []),
        f"  time         {output.seconds(p.seconds)}, limited by {p.bound}",
        f"  lower bound  {output.seconds(p.lower_s)}",
        f"  rate         {output.rate(tokens_per_second)} tokens a second{_together(found)}",
        *spent.lines(),
        f"  utilisation  {p.utilisation:.1%} of {peak / 1e12:.4g} TFLOP/s",
    ]
    print("\n".join(lines))
    for what, table in (("part", by_part), ("limited by", by_limit)):
        total = sum(table.values())
        rows = [[f"  {n}", output.seconds(t), f"{t / total:.1%}"] for n, t in table.items()]
        output.print_table([f"  {what}", "time", "share"], rows)
    guessed = dict.fromkeys(part_of(row) for row in p.phases if row["constants_from"] == "none")
    if guessed and p.rung != "bound" and len(guessed) < len(by_part):
        print(f"no measured constants for: {', '.join(guessed)}")
    print(output.grounds(p.rung, p.constants_from, p.device.spec_hash))


def _by_kind(kinds: dict[str, float]) -> str:
    """Return what the memory holds, without what is less than a hundredth of it."""
    least = sum(kinds.values()) / 100
    held = [f"{kind} {output.count(held, 'bytes')}" for kind, held in kinds.items() if held >= least]
    return f": {', '.join(held)}" if len(held) > 1 else ""


def _together(found: Architecture) -> str:
    """Say that a rate is of all devices, where the rest of the answer is of each."""
    return "" if found.devices == 1 else f", all {found.devices} devices together"


def _print_generation(
    found: Architecture, g: Generation, kinds: dict[str, float], lacking: str | None, spent: Spent,
    as_json: bool,
) -> None:  # fmt: skip
    p, held = g.prefill, sum(kinds.values())
    rung, origins = g.grounds
    numbers: dict[str, Any] = {
        "first_s": g.first_s,
        "token_s": g.token_s,
        "seconds": g.seconds,
        "lower_s": g.lower_s,
        "tokens_per_second": g.tokens_per_second,
        **asdict(spent),
    }
    if as_json:
        shapes = {**g.sizes, "new": g.new}
        about = {"model": found.name, "device": p.device.name, "rung": rung, "shapes": shapes}
        memory = {"memory_bytes": held, "memory_bytes_by_kind": kinds}
        room = {"fits": lacking is None, "lacking": lacking}
        grounds = {"devices": found.devices, "constants_from": origins}
        answer = {**about, **numbers, **memory, **room, **grounds}
        output.print_json(output.made_with(p.device.spec_hash) | answer)
        return
    new = "1 token" if g.new == 1 else f"{g.new} tokens"
    print(f"{g.label} on {machines(p.device, found.devices)}: {new} after {output.sizes(g.sizes)}")
    print(f"  memory       {output.count(held, 'bytes')}{_by_kind(kinds)}")
    if lacking:
        print(f"  does not fit {lacking}")
    print(f"  first token  {output.seconds(g.first_s)}")
    print(f"  each next    {output.seconds(g.token_s)}{_growing(g)}")
    print(f"  all          {output.seconds(g.seconds)}, at least {output.seconds(g.lower_s)}")
    print(f"  rate         {output.rate(g.tokens_per_second)} tokens a second{_together(found)}")
    for line in spent.lines():
        print(line)
    print(output.grounds(rung, origins, p.device.spec_hash))


def _growing(g: Generation) -> str:
    """Return the times of the first and the last further token, if the growing cache makes them differ."""
    steps = g.steps("seconds")[1:]
    ends = [output.seconds(float(steps[i])) for i in (0, -1)] if steps.size else []
    return f" on average, {ends[0]} at first, {ends[1]} at last" if len(set(ends)) == 2 else ""


COMMANDS = (
    ("model", model, "costmodel model llama-2-7b -m a100-sxm-80gb -D batch=1 seq=2048 --use prefill"),
)
