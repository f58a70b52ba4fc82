"""Compare predictions with posted times of products, attention, experts and collectives on many devices.

The rows (``validation/posted/``, with their sources) are results that people and vendors posted on GitHub,
copied unchanged. Nothing is fitted on those judged; AMD's attention and products, NVIDIA's all-reduces,
mixtures' experts (`costmodel.validation.posted_experts`) and facts of latent attention
(`costmodel.validation.latent`) are fitted on others. ``validation/DIARY.md`` says what was learned from those
of devices that are not kept aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from costmodel import dtypes
from costmodel.files import write_text
from costmodel.layers.collective import Collective
from costmodel.predict import predict
from costmodel.score import score
from costmodel.validation import latent, posted_experts, posted_linear
from costmodel.validation.heldout import kept_aside
from costmodel.validation.residuals import errors

FOLDER = Path(__file__).parent / "posted"
#: Posted attention that constants are fitted on, with and without a mask together.
FITTED = FOLDER / "attention_fitted.csv"
#: Posted collectives, and all-reduces that constants are fitted on.
COLLECTIVES, COLLECTIVES_FITTED = FOLDER / "collectives.csv", FOLDER / "collectives_fitted.csv"
PAGE = Path(__file__).parent / "POSTED.md"
#: Calls shorter than this [s] are not judged, because many of these posts show the host's launch rate.
SHORTEST = 5e-5
_CELL = ["gpu", "op", "direction", "dtype", "kernel", "constants_from"]
#: Columns of a table of experts.
EXPERTS = ["gpu", "dtype", "loads", "devices", "regime"]
#: Columns that identify a collective, without the bytes.
AMONG = ["gpu", "collective", "algorithm", "dtype", "devices", "constants_from"]
#: Columns that identify a cell of latent attention.
MODULES = ["gpu", "op", "model", "products", "cache", "kernel", "keys"]
#: Cached keys of all sequences of a module up to which launches count more than attention.
FEW_KEYS = 2**16
_HEADINGS = ("rows", "median", "mean", "bias", "least", "most")
#: What the sections of the page are about.
OF_MODULES = (
    "Projections, norms, rotation, the indexer of sparse attention (DeepSeek-V3.2 and GLM-5), attention and "
    "the output projection of 1 to 128 heads, as vLLM runs them without torch.compile; `latent_core` is "
    "FlashMLA's kernel alone, `latent_sparse` the one over a list of 2,048 positions for each token of a "
    "prompt (`costmodel.validation.latent`). "
    "Formats are those of the products with weights and of the cache; `few` keys are up to "
    f"{FEW_KEYS:,} of all sequences together. Of A100, B200 and H200 these are the shapes that "
    "`costmodel.validation.heldout` holds out; B300, GB300 and H20 are predicted with what was found on B200 "
    "and H200."
)
OF_EXPERTS = (
    "Calls of vLLM's Triton kernel for all experts of a layer, replayed from a graph: sorting the choices by "
    "expert, both products, the activation between them, and the sum of results; without the router. The "
    "constants are fitted on models of other widths (`costmodel.kernels.experts`). Where experts are spread "
    "over several devices, each receives all tokens. Loads are equal, or those of a power law."
)
OF_LINEAR = (
    "Forward passes and training passes of flash-linear-attention's kernels, called one by one from the "
    "host; two constants were fitted on linear attention of one of the posts on B200 "
    "(`costmodel.validation.posted_linear`). The posts on B200 are of two versions, whose backward differs "
    "by half and whose gated linear attention (`gla`) by a factor of two; that on H200 is the time of its "
    "kernels at a locked clock of 1.5 GHz. Updates of Mamba-2's states are replayed from a graph; the device "
    "of those on B200 may be a GB200."
)
OF_COLLECTIVES = (
    "Algorithms named are kernels in which devices read each other's memory, as vLLM chose them by size; "
    "where none is named, NCCL or RCCL chose. Constants were fitted on all-reduces of two and eight devices "
    "in a CUDA graph, of the source of the rows in bf16; those in fp32 are of another source. Without "
    "constants (`none`) those of NCCL's own tuning table serve."
)


def rows() -> pd.DataFrame:
    """Return the posted rows in the columns of measured tables, with their sources."""
    tables = [pd.read_csv(FOLDER / f"{name}.csv") for name in ("products", "attention")]
    told = pd.concat(tables, ignore_index=True).fillna({"direction": "fwd", "kernel": ""})
    return told.merge(pd.read_csv(FOLDER / "sources.csv"), on="source", validate="many_to_one")


def fitted() -> pd.DataFrame:
    """Return the posted rows that constants are fitted on; they are in no table of the page."""
    return pd.concat([pd.read_csv(path) for path in (FITTED, FOLDER / "products_fitted.csv")])


def judged() -> pd.DataFrame:
    """Return the rows that are long enough, scored, with the ``error`` of each [%]."""
    scored = score(rows().query("latency_s >= @SHORTEST"))
    return scored.assign(error=errors(scored["seconds"], scored["latency_s"]))


def collectives() -> pd.DataFrame:
    """Return the posted collectives within a node that are replayed or long enough, with predictions.

    Predictions are ``seconds``, the bound ``lower_s`` [s], and the ``error`` [%].
    """
    told = pd.read_csv(COLLECTIVES).fillna({"algorithm": "", "timer": ""})
    found = []
    for _, rows in told.query("latency_s >= @SHORTEST or timer != ''").groupby(AMONG[:-1], sort=True):
        one = rows.iloc[0]
        layer = Collective(
            dtype=one["dtype"], collective=one["collective"], algorithm=one["algorithm"] or "auto"
        )
        numbers = rows["bytes"].to_numpy() // dtypes.dtype(one["dtype"]).bytes
        sizes = {"m": 1, "n": numbers, "devices": one["devices"]}
        best, bound = (predict(layer, one["gpu"], sizes, rung=rung) for rung in (None, "bound"))
        found.append(
            rows.assign(
                seconds=best.seconds,
                lower_s=bound.seconds,
                constants_from=best.constants_from,
                error=errors(best.seconds, rows["latency_s"]),
            )
        )
    return pd.concat(found, ignore_index=True)


def modules() -> pd.DataFrame:
    """Return the posted modules of latent attention with predictions, of few ``keys`` and of many."""
    found = latent.predicted(pd.read_csv(FOLDER / "latent.csv"))
    return found.assign(keys=(found["batch"] * found["seq_kv"] <= FEW_KEYS).map({True: "few", False: "many"}))


def by_cell(scored: pd.DataFrame, cell: Sequence[str] = _CELL) -> pd.DataFrame:
    """Return the errors [%] by device, operation, direction, format, kernel and origin of the constants."""
    grouped = scored.groupby(list(cell), sort=True)["error"]
    table = {
        "rows": grouped.size(),
        "median": grouped.apply(lambda error: error.abs().median()),
        "mean": grouped.apply(lambda error: error.abs().mean()),
        "bias": grouped.median(),
        "least": grouped.min(),
        "most": grouped.max(),
    }
    return pd.DataFrame(table).reset_index()


def markdown(
    scored: pd.DataFrame,
    exchanged: pd.DataFrame,
    latents: pd.DataFrame,
    experts: pd.DataFrame,
    linear: pd.DataFrame,
    left_out: int,
) -> str:
    """Return the page."""
    kept, exchanged_kept, linear_kept = (kept_aside(rows) for rows in (scored, exchanged, linear))
    all_rows = (scored, exchanged, latents, experts, linear)
    lines = [
        "# What others posted",
        "",
        "Written by `make accuracy`; no figure is edited by hand. Where each row is from, and its licence: "
        "`validation/posted/sources.csv`.",
        "",
        "These are times that people and vendors posted on GitHub: square products by torch on random "
        "numbers (`bmm` with a batch of one, no operand transposed), other products (`gemm`: the best of "
        "many shapes, after ten thousand calls, or of one row), attention by named kernels, experts, linear "
        "attention, and collectives. Errors compare predicted with posted time [%]: `median` and `mean` are "
        "absolute, `bias` is the median signed error (positive: predicted too long), `least` and `most` are "
        "its extremes. Posts of the same kernel differ by 10 % and more, because boards, clocks and what "
        f"else a call does differ. {left_out} rows of products and attention under {SHORTEST * 1e6:.0f} µs "
        "are left out, because many of them show the host's launch overhead. Lower bounds above the posted "
        "time: "
        f"{sum(map(_above, all_rows))} of {sum(map(len, all_rows))}.",
        "",
        *_intervals(scored),
        "",
        "## Devices that constants were fitted on, and their relatives",
        "",
        *_table(scored[~kept]),
        "",
        *_section("Latent attention in serving, whole modules", OF_MODULES, _table(latents, MODULES)),
        *_section("Experts of mixtures", OF_EXPERTS, _table(experts, EXPERTS)),
        *_section("Linear attention", OF_LINEAR, _table(linear[~linear_kept], posted_linear.CELL)),
        *_section(
            "Collectives of the devices of one node",
            OF_COLLECTIVES,
            _table(exchanged[~exchanged_kept], AMONG),
        ),
        *_section(
            "Devices kept aside",
            "Nothing was fitted, chosen or changed for these.",
            _table(scored[kept]),
            _table(exchanged[exchanged_kept], AMONG),
            _table(linear[linear_kept], posted_linear.CELL),
        ),
    ]
    return "\n".join(lines)


def _section(title: str, text: str, *tables: Iterable[str]) -> Iterator[str]:
    yield from (f"## {title}", "", text, "")
    for table in tables:
        yield from (*table, "")


def _above(rows: pd.DataFrame) -> int:
    """Return the number of lower bounds above the posted time."""
    return int((rows["lower_s"] > rows["latency_s"]).sum())


def _intervals(scored: pd.DataFrame) -> Iterator[str]:
    """Yield the table of posted times inside the intervals of their predictions."""
    known, own = scored[scored["lo80_s"].notna()], scored["constants_from"] == "self"
    back = scored["direction"] == "bwd"
    yield "| intervals of | rows | in 80 % | in 95 % |"
    yield "|---|---|---|---|"
    of = {
        "forward, with the device's own constants (of other builds or libraries)": own & ~back,
        "forward, with a related device's constants or another format's": ~own & ~back,
        "backward, with the constants of forward": back,
    }
    for name, which in of.items():
        part = known[which[known.index]]
        held = [
            100 * part["latency_s"].between(part[f"lo{level}_s"], part[f"hi{level}_s"]).mean()
            for level in (80, 95)
        ]
        yield _row((name, str(len(part)), *(f"{share:.0f}" for share in held)))


def _table(scored: pd.DataFrame, cell: Sequence[str] = _CELL) -> Iterator[str]:
    yield _row((*cell, *_HEADINGS))
    yield _row(["---"] * (len(cell) + len(_HEADINGS)))
    for found in by_cell(scored, cell).itertuples(index=False):
        yield _row(found)
    error = scored["error"]
    whole = (len(error), error.abs().median(), error.abs().mean(), error.median(), error.min(), error.max())
    yield _row(("all", *[""] * (len(cell) - 1), *whole))


def _row(cells: Iterable[object]) -> str:
    texts = (f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells)
    return f"| {' | '.join(texts)} |"


def main() -> None:
    """Write the page."""
    scored, exchanged, latents = judged(), collectives(), modules()
    experts, linear = posted_experts.judged(), posted_linear.judged()
    page = markdown(scored, exchanged, latents, experts, linear, len(rows()) - len(scored))
    write_text(PAGE, page, overwrite=True)
    print(
        f"{len(scored)} posted rows on {scored['gpu'].nunique()} devices, {len(exchanged)} collectives, "
        f"{len(latents)} of latent attention, {len(experts)} of experts, {len(linear)} of linear attention"
    )


if __name__ == "__main__":
    main()
