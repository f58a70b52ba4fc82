"""The commands assembled into one application, with the shorthand that arguments allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from costmodel._version import __version__
from costmodel.cli import (
    catalogue,
    explaining,
    exploring,
    measuring,
    modelling,
    planning,
    predictions,
    profiling,
    tables,
)
from costmodel.errors import CostmodelError, NoRateError, UnavailableError, unknown_name

#: Every command: its name, its function, and an example that runs.
COMMANDS = (
    *catalogue.COMMANDS,
    *predictions.COMMANDS,
    *explaining.COMMANDS,
    *modelling.COMMANDS,
    *planning.COMMANDS,
    *tables.COMMANDS,
    *profiling.COMMANDS,
    *exploring.COMMANDS,
    *measuring.COMMANDS,
)
#: Options that take any number of NAME=VALUE.
_SETTINGS = ("-D", "--define", "--set", "--device-set", "--price")


class _Command(typer.core.TyperCommand):
    """A command that refuses options which would otherwise be silently ignored, and names those that help.

    Refused are a single-valued option given twice, and one with an empty value, such as an unset shell
    variable leaves.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check the options as given, then parse them."""
        values, extra, given = self.make_parser(ctx).parse_args(args=list(args))
        for option in given:
            if not isinstance(option, typer.core.TyperOption) or option.is_flag or option.multiple:
                continue
            if given.count(option) > 1:
                raise CostmodelError(
                    f"{self.name}: {option.opts[-1]} is given {given.count(option)} times; once will do"
                )
            if values[str(option.name)] == "":
                raise CostmodelError(f"{self.name}: {option.opts[-1]} is given without a value")
        try:
            parsed: list[str] = super().parse_args(ctx, args)
        except typer.TyperException as error:
            if extra and "extra argument" in error.format_message():
                from costmodel.symbols import GLOSSARY

                if extra[0] in GLOSSARY:
                    raise CostmodelError(f"{self.name}: wanted -D {extra[0]}=VALUE, got {extra[0]}") from None
                raise CostmodelError(
                    f"{self.name}: unexpected {' '.join(extra)}; repeat an option to give several values; "
                    "`sweep` takes several layers and devices"
                ) from None
            raise
        return parsed

    def invoke(self, ctx: Any) -> Any:
        """Run the command; if a device lacks the number format, say by which option another is chosen."""
        try:
            return super().invoke(ctx)
        except NoRateError as error:
            names = {name for option in self.params for name in option.opts}
            wanted = {"--dtype": f"--dtype {error.instead}", "--set": f"--set dtype={error.instead}"}
            hints = [hint for name, hint in wanted.items() if name in names]
            if not hints:
                raise
            raise UnavailableError(f"{error} ({hints[0]} would do)") from None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"costmodel {__version__}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def command(argv: Sequence[str]) -> typer.core.TyperGroup:
    """Return the application; if a command is named, with that one alone, because making all is slower.

    Parameters
    ----------
    argv : sequence of str
        The arguments after the program's name.
    """
    names = [name for name, _, _ in COMMANDS]
    if argv and not argv[0].startswith("-") and argv[0] not in names:
        raise unknown_name("command", argv[0], names)
    app = typer.Typer(
        name="costmodel",
        help="Why a layer is as fast as it is on a device, where its limit lies, and what would change.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_main)
    for name, function, example in [one for one in COMMANDS if one[0] in argv[:1]] or COMMANDS:
        app.command(name, cls=_Command, epilog=f"\b\nExample:\n  {example}")(function)
    return typer.main.get_group(app)


def arguments(argv: Sequence[str]) -> list[str]:
    """Return the arguments with an option repeated for each further NAME=VALUE that follows it.

    For example, ``-D seq=8192 batch=4`` becomes ``-D seq=8192 -D batch=4``.
    """
    result: list[str] = []
    setting = None
    for word in argv:
        if word.startswith("-"):
            setting = word if word in _SETTINGS else None
        elif setting is not None and result[-1] != setting:
            if "=" in word:
                result.append(setting)
            else:
                setting = None
        result.append(word)
    return result
