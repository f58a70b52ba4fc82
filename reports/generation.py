"""Times of a whole generation: the prompt, and each further token with a growing cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from costmodel.reports import style, words

NAME = "generation"
ABOUT = (
    "Total time over the number of generated tokens, with its two parts, the prompt (which yields the first "
    "token) and all later tokens; and the time of the last token alone. The cache grows with each token."
)
#: Columns of times in words.
TIMES = {
    "elapsed_s": "total so far",
    "first_s": "prompt and first token",
    "further_s": "later tokens",
    "step_s": "last token alone",
}


def rows(tokens: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each time and number of tokens; for the first token, only the prompt's time.

    Parameters
    ----------
    tokens : DataFrame
        where, made, step_s, elapsed_s, first_s, even, lacks_bytes, prompt, batch.
    """
    whole = tokens.assign(further_s=tokens["elapsed_s"] - tokens["first_s"], step=tokens["step_s"])
    keys = [name for name in whole if name not in TIMES]
    long = whole.melt([*keys], list(TIMES), var_name="label", value_name="seconds")
    drawn = long[(long["made"] > 1) | long["label"].isin(["elapsed_s", "first_s"])]
    return drawn.assign(label=drawn["label"].map(TIMES)).reset_index(drop=True)


def chart(frame: pd.DataFrame) -> Any:
    """Return a line for each time over the tokens made."""
    alt = style.altair()
    along = style.length_axis("made", "generated tokens")
    time = style.log_y("seconds", "time [s]", style.SECONDS)
    tooltip = style.tips(
        ("label:N", "time of", ""), ("made:Q", "generated tokens", ","), ("seconds:Q", "time [s]", ".3~s")
    )
    names = list(TIMES.values())
    base = alt.Chart(frame)
    drawn = alt.layer(
        base.mark_line(strokeWidth=2.2).encode(along, time, *style.series_line("label", names)),
        base.mark_point(strokeWidth=0, size=40, opacity=1).encode(
            along, time, style.series_fill("label", names), tooltip=tooltip
        ),
    ).properties(width="container", height=style.HEIGHT)
    return style.titled(style.lined(drawn, names), finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the times of the generation, its first and its further tokens, and the tokens per second."""
    whole = frame[frame["label"] == TIMES["elapsed_s"]].sort_values("made")
    last = whole.iloc[-1]
    made, total, batch = last["made"], last["seconds"], last["batch"]
    each_of = f" in each of {words.whole(batch)} sequences" if batch > 1 else ""
    prompt = words.at("seq", last["prompt"]) + each_of
    rate = words.rounded(float(f"{batch * made / total:.3g}"))
    if made == 1:
        said = [f"One token after a prompt of {prompt} takes {words.seconds(total)}"]
    else:
        first = frame.loc[frame["label"] == TIMES["first_s"], "seconds"].iloc[0]
        ends = [words.seconds(whole["step"].iloc[i]) for i in (1, -1)]
        each = ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
        said = [
            f"{words.at('seq', made)} after a prompt of {prompt} take {words.seconds(total)}: "
            f"{words.seconds(first)} to the first, then {each} each; {rate} tokens per second"
        ]
        if np.isfinite(last["even"]):
            said.append(
                f"from token {words.whole(last['even'])} on, decoding has taken longer than the prompt"
            )
    if last["lacks_bytes"] > 0:
        said.append(f"the device lacks {words.size(last['lacks_bytes'])} of memory")
    return "; ".join(said)
