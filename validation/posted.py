"""How far predictions are from what others posted: products and attention, on devices that we never had too.

The rows (``validation/posted/``: products, attention, and where each is from) are results that people, and
NVIDIA's own repository, put on GitHub, copied as posted. Nothing is fitted on them; what was read off those
of devices that are not kept aside, the diary says (``validation/DIARY.md``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from costmodel import hardware
from costmodel.files import write_whole
from costmodel.score import score
from costmodel.validation.heldout import NEVER_FITTED

FOLDER = Path(__file__).parent / "posted"
PAGE = Path(__file__).parent / "POSTED.md"
#: Calls shorter than this [s] are not judged: there many posts show how fast a host launches.
SHORTEST = 5e-5
_CELL = ["gpu", "op", "direction", "dtype", "kernel", "constants_from"]
_HEADINGS = ("rows", "median", "mean", "bias", "least", "most")


def rows() -> pd.DataFrame:
    """Return the posted rows, in the columns of measured tables, with where each is from."""
    tables = [pd.read_csv(FOLDER / f"{name}.csv") for name in ("products", "attention")]
    told = pd.concat(tables, ignore_index=True).fillna({"direction": "fwd", "kernel": ""})
    return told.merge(pd.read_csv(FOLDER / "sources.csv"), on="source", validate="many_to_one")


def judged() -> pd.DataFrame:
    """Return the rows that are long enough, as `score` returns them, with the ``error`` of each [%]."""
    scored = score(rows().query("latency_s >= @SHORTEST"))
    return scored.assign(error=100 * (scored["seconds"] / scored["latency_s"] - 1))


def by_cell(scored: pd.DataFrame) -> pd.DataFrame:
    """Return the errors [%] by device, operation, direction, format, kernel, and whose constants served."""
    grouped = scored.groupby(_CELL, sort=True)["error"]
    table = {
        "rows": grouped.size(),
        "median": grouped.apply(lambda error: error.abs().median()),
        "mean": grouped.apply(lambda error: error.abs().mean()),
        "bias": grouped.median(),
        "least": grouped.min(),
        "most": grouped.max(),
    }
    return pd.DataFrame(table).reset_index()


def markdown(scored: pd.DataFrame, left_out: int) -> str:
    """Return the page."""
    aside = scored["gpu"].map(lambda name: hardware.load(name).name in NEVER_FITTED)
    open_ones, kept = scored[~aside], scored[aside]
    lines = [
        "# What others posted",
        "",
        "Written by `make accuracy`; no figure is edited by hand. Where each row is from, and its licence: "
        "`validation/posted/sources.csv`.",
        "",
        "Times that people, and NVIDIA's own repository, put on GitHub: torch's square products on random "
        "numbers (`bmm` of one: no operand is transposed), and attention by named kernels. Errors of "
        "predicted against posted time [%]: median and mean absolute, and the median signed one as bias "
        "(positive: predicted too long), with the least and the most. Posts differ from one another by 10 % "
        "and more: boards, clocks, what else a call does. "
        f"{left_out} rows under {SHORTEST * 1e6:.0f} µs are left out, where many show the host's launches. "
        f"No lower bound is above a posted time: {int((scored['lower_s'] > scored['latency_s']).sum())} of "
        f"{len(scored)} are.",
        "",
        *_intervals(scored),
        "",
        "## Devices that constants were fitted on, and their relatives",
        "",
        *_table(open_ones),
        "",
        "## Devices kept aside",
        "",
        "Looked at once all else was settled; nothing was changed for them.",
        "",
        *_table(kept),
        "",
    ]
    return "\n".join(lines)


def _intervals(scored: pd.DataFrame) -> Iterator[str]:
    """Yield how many posted times lie in the intervals of their predictions."""
    known, own = scored[scored["lo80_s"].notna()], scored["constants_from"] == "self"
    back = scored["direction"] == "bwd"
    yield "| intervals, of which rows | rows | in 80 % | in 95 % |"
    yield "|---|---|---|---|"
    of = {
        "forward, the device's own constants (of other builds, or other libraries)": own & ~back,
        "forward, a relative's or another format's": ~own & ~back,
        "backward, by the constants of forward": back,
    }
    for name, which in of.items():
        part = known[which[known.index]]
        held = [
            100 * part["latency_s"].between(part[f"lo{level}_s"], part[f"hi{level}_s"]).mean()
            for level in (80, 95)
        ]
        yield _row((name, str(len(part)), *(f"{share:.0f}" for share in held)))


def _table(scored: pd.DataFrame) -> Iterator[str]:
    yield _row((*_CELL, *_HEADINGS))
    yield _row(["---"] * (len(_CELL) + len(_HEADINGS)))
    for cell in by_cell(scored).itertuples(index=False):
        yield _row(cell)
    error = scored["error"]
    whole = (len(error), error.abs().median(), error.abs().mean(), error.median(), error.min(), error.max())
    yield _row(("all", *[""] * (len(_CELL) - 1), *whole))


def _row(cells: Iterable[object]) -> str:
    texts = (f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells)
    return f"| {' | '.join(texts)} |"


def main() -> None:
    """Write the page."""
    scored = judged()
    page = markdown(scored, len(rows()) - len(scored))
    write_whole(PAGE, lambda path: path.write_text(page, "utf-8"), overwrite=True)
    print(f"{len(scored)} posted rows on {scored['gpu'].nunique()} devices")


if __name__ == "__main__":
    main()
