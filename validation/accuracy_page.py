"""Write the accuracy page: tables of errors and intervals, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from costmodel._version import __version__
from costmodel.calibration import LEVELS
from costmodel.validation.far import FAR_PERCENT

#: Number of rows from which a share of 80 % is known within about 3 points.
MANY = 200
_ERRORS = ("mean_ape", "median_ape", "bias")
_OTHERS = ("covered_80_other", "covered_95_other")
_HEADS = {
    "mean_ape": "mean",
    "median_ape": "median",
    "covered_80": "in 80 %",
    "width_80": "width",
    "covered_80_other": "80 %, others",
    "covered_95_other": "95 %, others",
    "far": "over 30 %",
    "farthest": "the farthest",
}
#: Columns of the table by regime for each level, and their decimals.
_SHOWN = (("covered", 1), ("width", 2))
#: Mean absolute error [%] of other tools and of the simplest models on A100 and H100 kernels, as stated in
#: the issue that asked for these models; none was run here.
PEERS = (
    ("pure roofline", "30–55", "60–70"),
    ("GenZ", "33–36", "24–32"),
    ("LLMCompass (tile search)", "24–27", "–"),
    ("calculon", "15–18", "230–420"),
    ("LLM-Viewer", "–", "101–267"),
    ("three fitted constants", "11–16", "18–20"),
)


def markdown(
    own: pd.DataFrame,
    carried: pd.DataFrame,
    regimes: pd.DataFrame,
    whole: pd.DataFrame,
    new_device: pd.DataFrame,
    far: pd.DataFrame,
) -> str:
    """Return the page: errors and intervals of calibrated predictions, of carried constants, and of peers.

    Parameters
    ----------
    own, carried : DataFrame
        `table_of` at the best rung, `with_other_half`; and at rung ``kernel``.
    regimes : DataFrame
        See `intervals.by_regime`.
    whole : DataFrame
        See `whole_models`.
    new_device : DataFrame
        See `transfers.left_out`.
    far : DataFrame
        See `far.far`.
    """
    lines = [
        "# Accuracy",
        "",
        f"Written by `make accuracy` of costmodel {__version__}; no figure is edited by hand.",
        "",
        "All rows are of shapes that no constant was fitted on: 30 % of the shapes of the shared tables, "
        "chosen by a hash of their sizes. Errors compare predicted with measured time [%]: `mean` and "
        "`median` are absolute, `bias` is the median signed error (positive: predicted too long). Devices "
        "kept aside are in none of these tables. Recurrent layers are published ones (DeepBench's, without "
        "input products). One of their five held-out shapes is a single step of a GRU, unlike any fitted row "
        '(validation/DIARY.md, "Recurrent layers: one step of a GRU").',
        "",
        "## With the device's own constants (rung `calibrated`)",
        "",
        "`in 80 %` is the share of rows inside the 80 % interval, and `width` how wide the interval is "
        "(upper end over lower end). The shipped intervals are taken from these very rows, so this coverage "
        "holds by construction. `80 %, others` and `95 %, others` test it: intervals are taken from one half "
        "of the shapes and judged on the rows of the other half, both ways.",
        "",
        *_table(own, ("rows", "predicted", *_ERRORS, "covered_80", "width_80", *_OTHERS)),
        "",
        *_far(own, far),
        "",
        *_intervals(own, regimes),
        "",
        "## Whole models, eager",
        "",
        "Predicted as sums of kernels. Only the launch overhead of the harness's host was fitted, on the "
        "shapes that are not held out (`calibrate_harness.py`). `inf` is inference, `train` a training pass, "
        "forward or backward.",
        "",
        "| " + " | ".join(str(column).strip() for column in whole) + " |",
        "|" + "---|" * len(whole.columns),
        *(f"| {' | '.join(_written(value) for value in row)} |" for row in whole.itertuples(index=False)),
        "",
        "## Without them (rung `kernel`): constants of the nearest relative, one device left out at a time",
        "",
        "Each device is predicted as if nothing had been measured on it, with the constants of the device in "
        "`constants_from`. Rows of eager calls include launch overhead, which belongs to the host and not to "
        "the device: it is the median over the hosts of the vendor's other devices, and is not refitted.",
        "",
        *_table(carried, ("constants_from", "rows", *_ERRORS)),
        "",
        *_new_device(new_device),
        "",
        "## Others",
        "",
        "Mean absolute error [%] on A100 and H100 kernels, as stated in this project's issue on kernel "
        "models. These are other rows than ours, and the tools were not run here.",
        "",
        "| model | GEMM | attention |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in PEERS),
        "",
    ]
    return "\n".join(lines)


def _far(own: pd.DataFrame, far: pd.DataFrame) -> Iterator[str]:
    """Yield the section on rows that are far off."""
    yield f"### Rows that are over {FAR_PERCENT:.0f} % off"
    yield ""
    many, rows = far["far"].sum(), own["rows"].sum()
    yield (
        f"{many} of {rows:,} ({100 * many / rows:.1f} %). {far['too short'].sum()} of them are predicted too "
        f"short, and {far['under 20 µs'].sum()} take less than 20 µs. Causes, as far as they are known, are "
        'in validation/DIARY.md, "Rows over 30 %: what is left".'
    )
    yield ""
    yield from _table(far, ("rows", "far", "too short", "under 20 µs", "farthest"))


def _intervals(own: pd.DataFrame, regimes: pd.DataFrame) -> Iterator[str]:
    """Yield the section on intervals' coverage of rows they were not taken from, by cell and regime."""
    yield "## Intervals on rows that they were not taken from"
    yield ""
    many = own[own["judged_other"] >= MANY]
    kept = " and ".join(
        f"{((many[f'covered_{level}_other'] - level).abs() <= 5).sum()} ({level} %)" for level in LEVELS
    )
    yield (
        f"{len(many)} cells have at least {MANY} such rows. Coverage is within 5 points of the promised "
        f"level in {kept} of them. By kernel model and predicted time, all devices together, with median "
        "widths:"
    )
    yield ""
    yield "| kernel model | predicted time | rows | in 80 % | width | in 95 % | width |"
    yield "|---|---|---|---|---|---|---|"
    for _, row in regimes.iterrows():
        numbers = (f"{row[f'{what}_{level}']:.{d}f}" for level in (80, 95) for what, d in _SHOWN)
        yield f"| {row['kernel']} | {row['regime']} | {row['judged']:.0f} | {' | '.join(numbers)} |"


def _new_device(left_out: pd.DataFrame) -> Iterator[str]:
    """Yield the section on intervals of carried constants on devices that they were not taken from."""
    many = left_out[left_out["relation"] == "generation"]
    held = ", ".join(f"{many[f'covered_{level}'].mean():.1f} % in {level} %" for level in LEVELS)
    yield "### Their intervals, on a device that they were not taken from"
    yield ""
    yield (
        "Intervals are taken from all devices but one and judged on that one. Coverage is the mean over the "
        "devices left out, with the least in brackets. For constants of another generation, over all kernel "
        f"models: {held}. With two devices in all, these intervals rest on one, and the shipped ones on both."
    )
    yield ""
    yield "| kernel model | relative | devices | rows | in 80 % | width | in 95 % | width |"
    yield "|---|---|---|---|---|---|---|---|"
    for (kernel, relation), part in left_out.groupby(["kernel", "relation"]):
        shares = (
            f"{part[f'covered_{level}'].mean():.1f} ({part[f'covered_{level}'].min():.1f}) | "
            f"{part[f'width_{level}'].mean():.2f}"
            for level in LEVELS
        )
        yield f"| {kernel} | {relation} | {len(part)} | {part['rows'].sum()} | {' | '.join(shares)} |"


def _table(frame: pd.DataFrame, columns: tuple[str, ...]) -> Iterator[str]:
    yield "| device | op | dtype | framework | " + " | ".join(_HEADS.get(c, c) for c in columns) + " |"
    yield "|---|---|---|---|" + "---|" * len(columns)
    for _, row in frame.iterrows():
        values = (_written(row[c]) for c in columns)
        yield (
            f"| {row['gpu']} | {row['op']} | {row['dtype']} | {row['framework']} | "
            + " | ".join(values)
            + " |"
        )


def _written(value: object) -> str:
    if isinstance(value, float):
        return "–" if np.isnan(value) else f"{value:.2f}"
    return str(value)
