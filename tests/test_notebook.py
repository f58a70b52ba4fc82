"""What a notebook shows: formulas, numbers and sources; never markup from a user's file."""

import html.parser
import re

import numpy as np
import pytest

import costmodel as cm
from costmodel import notebook


class Tables(html.parser.HTMLParser):
    """The rows of a page's tables."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self._cell = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._cell = tag in ("td", "th")
        if tag == "tr":
            self.rows.append([])
        elif self._cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._cell = False

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data


def cells(shown):
    return {row[0]: row[1:] for row in Tables(shown._repr_html_()).rows}


def test_layer_shows_its_formulas_in_the_papers_letters():
    shown = cells(cm.TiledAttention(causal=True))
    assert shown["head_dim"] == ["$d_h$", "width of one head"]
    assert shown["kv_heads"][1].endswith("(default heads)")
    # 2·B·h·(pairs)·(d + d_v), with pairs = n(n_kv − n) + n(n+1)/2: every letter of it.
    assert all(letter in shown["matrix_flops"][0] for letter in ("B", "h", "n", "n_{kv}", "d_h", "d_v"))
    assert shown["depth"] == ["$1$"]
    text = cm.TiledAttention()._repr_html_()
    assert "2205.14135" in text
    assert "tiled-attention[bf16]" in text


def test_a_cost_and_its_tallies_are_latex():
    cost = cm.LSTM().cost
    assert re.match(r"\$\$\\begin\{aligned\}.*\\end\{aligned\}\$\$\Z", cost._repr_latex_())
    assert r"\text{matrix bf16}" in cost.flops._repr_latex_()


def test_a_prediction_shows_time_bound_and_kernels():
    # 4·4·32·8192²·128 / 2 FLOPs (causal) at 989.4 TFLOP/s, as in the README.
    p = cm.predict(
        cm.TiledAttention(causal=True),
        "nvidia/h200-sxm",
        rung="bound",
        batch=4,
        heads=32,
        seq=8192,
        head_dim=128,
    )
    text = p._repr_html_()
    assert "time: 2.223 ms, limited by matrix:bf16" in text
    assert "seq = 8,192" in text
    assert Tables(text).rows[1] == ["attention", "2.223 ms", "matrix:bf16", "none"]


def test_kernels_that_run_zero_times_are_not_shown():
    rows = Tables(cm.predict(cm.LSTM(), "nvidia/h200-sxm", batch=8, hidden=512, seq=64)._repr_html_()).rows
    assert [row[0] for row in rows[1:]] == ["input product, layer 1", "recurrence"]


def test_arrays_are_shown_row_by_row_and_truncated():
    seq = np.arange(1, 1001) * 64
    p = cm.predict(cm.LSTM(), "nvidia/h200-sxm", rung="bound", batch=8, hidden=512, seq=seq)
    rows = Tables(p._repr_html_()).rows
    assert rows[0] == ["seq", "time", "lower bound", "limited by"]
    assert len(rows) == notebook.MOST_ROWS + 2
    assert rows[1][0] == "64"
    assert rows[-1][0] == "64,000"
    assert "1,000 predictions" in p._repr_html_()


def test_several_axes_are_rows_of_one_table():
    p = cm.predict(cm.LSTM(), "nvidia/h200-sxm", rung="bound", batch=[[1], [2]], hidden=512, seq=[16, 32, 64])
    rows = Tables(p._repr_html_()).rows
    assert [row[:2] for row in rows[1:]] == [[b, s] for b in "12" for s in ("16", "32", "64")]


@pytest.mark.parametrize(
    "hostile", ["</table><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a&lt;b"]
)
def test_hostile_text_is_escaped(hostile):
    text = notebook.block(hostile, {hostile: hostile}, notebook.table([hostile], [[hostile]], hostile))
    parsed = Tables(text)
    assert set(parsed.tags) <= {"div", "strong", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert parsed.rows == [[hostile], [hostile]]
