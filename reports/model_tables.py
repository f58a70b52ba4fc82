"""Tables on the page of a whole model."""

from __future__ import annotations

from costmodel.reports import elasticity, whatif
from costmodel.reports.model_frames import ModelFrames
from costmodel.reports.table import Column, Table
from costmodel.reports.words import share, size

_WHERE, _FOR = Column("row", "Device"), Column("for", "Use")
#: Columns of the numbers that define a layout.
_NUMBERS = ("tensor", "pipeline", "data", "expert", "micro_batch", "interleave")


def kernels(frames: ModelFrames) -> Table:
    """Return every kernel of every use."""
    columns = (
        Column("part", "Part"),
        Column("phase", "Kernel"),
        Column("seconds", "Time", "seconds"),
        Column("bound", "Limited by", "limit"),
        Column("matrix_flops", "Matrix FLOP", "flop"),
        Column("hbm_bytes", "Traffic", "bytes"),
        Column("constants_from", "Constants from"),
    )
    return Table("kernels", "All kernels, each summed over its runs", frames.kernels, columns)


def changes(frames: ModelFrames) -> Table:
    """Return the what-ifs: the effect of one change at a time."""
    columns = (
        Column("change", "Change"),
        Column("kind", "Kind"),
        Column("seconds", "Time", "seconds"),
        Column("gain", "Time saved", "percent"),
        Column("rung", "Rung"),
        Column("constants_from", "Constants from"),
    )
    rows = whatif.rows(frames.changes)
    return Table(
        "whatifs", "Predictions with one change", rows.assign(gain=100 * (1 - 1 / rows["speedup"])), columns
    )


def slopes(frames: ModelFrames) -> Table:
    """Return the elasticities of the roofline's time to each rate and size."""
    rows = elasticity.rows(frames.slopes)
    columns = (
        Column("of", "10 % more of"),
        Column("kind", "Kind"),
        Column("change", "Change of the time", "percent"),
    )
    return Table(
        "elasticities",
        "How the roofline's time responds to rates and sizes",
        rows.assign(change=rows["elasticity"].map(elasticity.changed)),
        columns,
    )


def layouts(frames: ModelFrames) -> Table:
    """Return the fastest layouts for training, as numbers."""
    columns = (
        Column("rank", "Rank", "count"),
        *(Column(name, name.replace("_", " ").capitalize(), "count") for name in _NUMBERS),
        Column("sequence_parallel", "Sequence parallel"),
        Column("recompute", "Recomputation"),
        Column("zero", "ZeRO", "count"),
        Column("seconds", "Step time", "seconds"),
        Column("memory_bytes", "Memory", "bytes"),
        Column("used", "Share of peak", "percent"),
        Column("tokens_per_second", "Tokens per second", "count"),
        Column("rung", "Rung"),
        Column("constants_from", "Constants from"),
    )
    parallel = frames.layouts["sequence_parallel"].map({True: "yes", False: "no"})
    rows = frames.layouts.assign(used=100 * frames.layouts["utilisation"], sequence_parallel=parallel)
    return Table("layouts", "The fastest layouts", rows, columns)


def tokens(frames: ModelFrames) -> Table:
    """Return the times of a whole generation, at doublings of the tokens."""
    columns = (
        Column("made", "Token", "count"),
        Column("step_s", "Its time", "seconds"),
        Column("elapsed_s", "Total so far", "seconds"),
        Column("lower_s", "Lower bound", "seconds"),
        Column("rate", "Tokens per second", "count"),
    )
    rows = frames.tokens
    rate = rows["batch"] * rows["made"] / rows["elapsed_s"]
    caption = "A whole generation; the time of the first token is that of the prompt"
    return Table("tokens", caption, rows.assign(rate=rate), columns)


def answers(frames: ModelFrames) -> Table:
    """Return the times at the sizes asked about, for every device and use."""
    # Columns are renamed so that no pick filters the table: its rows are for comparison.
    rows = frames.answers.rename(columns={"where": "row", "use": "for"})
    columns = (
        _WHERE,
        _FOR,
        Column("seconds", "Time", "seconds"),
        Column("lo80_s", "80 % from", "seconds"),
        Column("hi80_s", "to", "seconds"),
        Column("lower_s", "Lower bound", "seconds"),
        Column("bound", "Limited by", "limit"),
        Column("used", "Utilisation", "percent"),
        Column("matrix_flops", "Matrix FLOP", "flop"),
        Column("hbm_bytes", "Traffic", "bytes"),
        Column("launches", "Launches", "count"),
        Column("rung", "Rung"),
        Column("constants_from", "Constants from"),
    )
    rows = rows.assign(used=100 * rows["utilisation"])
    return Table("answers", "Times at the requested sizes", rows, columns)


def room(frames: ModelFrames) -> Table:
    """Return the memory of each use on each device, and what fits."""
    rows = frames.answers.rename(columns={"where": "row", "use": "for"})
    lacking = rows["memory_bytes"] - (1 - frames.margin) * rows["hbm_capacity_bytes"]
    columns = (
        _WHERE,
        _FOR,
        Column("memory_bytes", "Memory", "bytes"),
        Column("hbm_capacity_bytes", "Device memory", "bytes"),
        Column("fits", "Fits"),
        Column("longest_seq", "Longest sequence", "count"),
        Column("largest_batch", "Largest batch", "count"),
    )
    fits = ["yes" if bytes_ <= 0 else f"lacks {size(bytes_)}" for bytes_ in lacking]
    caption = f"What fits with {share(frames.margin)} of the memory left free (empty: any size does)"
    return Table("room", caption, rows.assign(fits=fits), columns)


def lengths(frames: ModelFrames) -> Table:
    """Return time and memory over the length, with training without recomputation."""
    keys = ["where", "use", "seq"]
    held = frames.memory[frames.memory["recompute"] == "none"]
    times = frames.lengths.groupby(keys, as_index=False, sort=False)[["seconds"]].sum()
    occupied = held.groupby(keys, as_index=False, sort=False)[["bytes"]].sum()
    columns = (
        Column("seq", "Tokens", "count"),
        Column("seconds", "Time", "seconds"),
        Column("bytes", "Memory", "bytes"),
    )
    rows = times.merge(occupied, on=keys, how="left")
    return Table("lengths", "Time and memory over length", rows, columns)
