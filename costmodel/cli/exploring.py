"""Command that writes a page which computes the model in the reader's browser: ``explore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from costmodel.cli import options as o
from costmodel.cli import output
from costmodel.errors import CostmodelError
from costmodel.files import check_writable


def explore(
    out: Annotated[Path, typer.Option("-o", "--output", metavar="PAGE.html", help="The page to write.")],
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="LAYER",
            help="Layers to choose from; default: LSTM, attention with stored scores, tiled attention.",
        ),
    ] = [],
    machines: Annotated[
        list[str],
        typer.Option("-m", "--machine", metavar="DEVICE", help="Devices to choose from; default: all."),
    ] = [],
    defines: Annotated[
        list[str],
        typer.Option(
            "-D", "--define", metavar="SIZE=VALUE", help="Start values of the sliders: seq=8192 batch=4."
        ),
    ] = [],
    settings: o.Settings = [],
    device_set: o.DeviceSettings = [],
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="The page's title.")] = None,
    force: o.Force = False,
) -> None:
    """Write a page with sliders for layers, devices and sizes.

    The browser recomputes the model as they move, at rung bound; the page needs no network.
    """
    check_writable(out, overwrite=force, suffixes=(".html",))
    if device_set and not machines:
        raise CostmodelError("explore: --device-set changes the devices given with -m; give at least one")
    named, extra = o.layers_and_devices(names)
    layers = o.layers(named, settings) if named else []
    if settings and not layers:
        raise CostmodelError("explore: --set changes the layers that are given; give at least one")
    from costmodel import explore as explorer

    devices = [o.device(name, device_set) for name in (*machines, *extra)]
    shown = layers or explorer.LAYERS
    if devices and not o.is_given("dtype", named, settings):
        shown = explorer.fitted(shown, devices)
    page = explorer.page(
        shown,
        devices or None,
        o.sizes(defines),
        title=title,
        command=output.command(),
    )
    output.write_page(page, out, overwrite=force)


COMMANDS = (
    (
        "explore",
        explore,
        "costmodel explore lstm 'tiled-attention[projections=true]' -m h200-sxm mi300x -o explorer.html",
    ),
)
