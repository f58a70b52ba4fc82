"""Scoring tables of measured kernels: each row is the prediction of its layer, wherever the row stands."""

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import costmodel as cm
from costmodel import measured
from costmodel.errors import TableError, UnknownNameError
from costmodel.measured import with_parts
from costmodel.score import ADDED, NUMBERS, read_measured, score, summary

#: Rows as in measurement tables, each with the framework to ask for.
ROWS = [
    ({"op": "gemm", "m": 512, "n": 1024, "k": 4096, "framework": "trtllm 1.3"}, "trtllm"),
    ({"op": "gemm", "m": 8, "n": 4096, "k": 4096, "framework": "trtllm 1.3"}, "trtllm"),
    ({"op": "softmax", "m": 4096, "n": 1024, "framework": None}, None),
    (
        {"op": "attention_prefill", "batch": 2, "seq_q": 2048, "heads_q": 16, "heads_kv": 4, "head_dim": 128},
        None,
    ),
    ({"op": "attention_prefill", "batch": 2, "seq_q": 2048, "heads_q": 16, "head_dim": 128}, None),
    ({"op": "lstm", "batch": 4, "seq": 128, "hidden": 256, "direction": "bwd", "bidirectional": True}, None),
    ({"op": "lstm", "batch": 4, "seq": 128, "hidden": 256, "input": 64}, None),
]


def asked(row: dict, framework: str | None) -> cm.Prediction:
    """Return the prediction of a row, asked for without a table."""
    if row["op"] == "gemm":
        return cm.predict(cm.Matmul(), "h200-sxm", m=row["m"], n=row["n"], k=row["k"], framework=framework)
    if row["op"] == "softmax":
        return cm.predict(cm.Softmax(), "h200-sxm", m=row["m"], n=row["n"])
    if row["op"] == "lstm":
        layer = cm.LSTM(direction=row.get("direction", "fwd"), bidirectional=row.get("bidirectional", False))
        sizes = {name: row[name] for name in ("batch", "seq", "hidden", "input") if name in row}
        return cm.predict(layer, "h200-sxm", sizes)
    kv = {"kv_heads": row["heads_kv"]} if "heads_kv" in row else {}
    sizes = {"batch": row["batch"], "seq": row["seq_q"], "heads": row["heads_q"], "head_dim": row["head_dim"]}
    return cm.predict(cm.TiledAttention(causal=True), "h200-sxm", sizes | kv)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rows = pd.DataFrame([{"gpu": "h200-sxm", "dtype": "bf16", **row} for row, _ in ROWS] * 20)
    return rows.assign(number=np.arange(len(rows)))


@pytest.mark.parametrize(
    ("text", "name", "release"),
    [
        ("trtllm 1.3.0rc20", "trtllm", "1.3.0rc20"),
        ("trtllm/1.3.0rc20", "trtllm", "1.3.0rc20"),
        ("TensorRT-LLM v1.3.0", "trtllm", "1.3.0"),
        ("tensorrt_llm==1.3.0", "trtllm", "1.3.0"),
        ("vllm==0.24.0", "vllm", "0.24.0"),
        ("vllm_0.24.0", "vllm", "0.24.0"),
        ("sglang-v0.5.14", "sglang", "0.5.14"),
        ("pytorch 2.1.0 eager", "pytorch", "2.1.0"),
        ("sarathi/vllm torch (linear=cuBLAS)", "sarathi-vllm", ""),
        ("flash-attention", "flash-attention", ""),
    ],
)
def test_framework_is_recognised_however_its_release_is_written(text, name, release):
    assert measured.framework(text) == (name, release)


def test_rows_of_unknown_frameworks_and_timers_are_predicted():
    """`predict` refuses an unknown framework; a measured row may name any."""
    row = {"gpu": "h200-sxm", "dtype": "bf16", "op": "gemm", "m": 512, "n": 512, "k": 512}
    named = [{"framework": "my compiler 0.1"}, {"framework": "xformers"}, {"timer": "stopwatch"}]
    scored = score(pd.DataFrame([{**row, **name} for name in named]))
    assert (scored["reason"] == "").all()
    assert (scored["seconds"] > 0).all()


def test_a_flag_says_whether_attention_is_causal():
    row = {"gpu": "h200-sxm", "dtype": "bf16", "batch": 2, "seq_q": 4096, "heads_q": 16, "head_dim": 128}
    said = [("attention_prefill", causal) for causal in (None, "true", "false", 1, 0)]
    said += [("attention_prefill_noncausal", causal) for causal in (None, "no", "1")]
    scored = score(pd.DataFrame([{**row, "op": op, "causal": causal} for op, causal in said]))
    whole, half = scored["seconds"][5], scored["seconds"][0]
    assert whole > 1.2 * half
    assert scored["seconds"].iloc[:7].tolist() == [half, half, whole, half, whole, whole, whole]
    assert scored["reason"][7] == "causal is 1, but op is attention_prefill_noncausal"


def test_every_row_is_the_prediction_of_its_layer(table):
    scored = score(table)
    assert list(scored.columns) == [*table.columns, *ADDED]
    assert (scored["reason"] == "").all()
    for number, (row, framework) in enumerate(ROWS):
        p = asked(row, framework)
        same = scored[scored["number"] % len(ROWS) == number]
        for name in NUMBERS:
            wanted = getattr(p, name)
            assert np.allclose(same[name], wanted, rtol=1e-12, equal_nan=True), (row, name)
        assert set(same["bound"]) == {p.bound}
        assert set(same["rung"]) == {p.rung}
        assert set(same["constants_from"]) == {p.constants_from}


ATTENTION = {"batch": 3, "seq_q": 96, "seq_kv": 160, "heads_q": 8, "heads_kv": 2, "head_dim": 64}
DELTA = {"batch": 3, "seq_q": 256, "heads_q": 4, "heads_kv": 8, "head_dim": 64}
CONV = {"batch": 3, "seq_q": 128, "n": 512, "k": 4}
STACK = {"batch": 3, "seq": 40, "hidden": 256, "input": 96, "num_layers": 4}
MODEL = {"batch": 2, "seq_q": 128, "heads_q": 8, "d_model": 512, "n_layers": 3, "vocab": 1000, "d_ff": 1536}
#: Names of sizes in tables → ours, where they differ (contract.md).
OURS = {"seq_q": "seq", "heads_q": "heads", "heads_kv": "kv_heads", "b": "batch", "n_layers": "num_layers"}


@pytest.mark.parametrize(
    ("row", "layer"),
    [
        ({"op": "bmm", "b": 7, "m": 64, "n": 96, "k": 128}, cm.Matmul(batched=True)),
        ({"op": "bmm", "b": 7, "m": 64, "n": 96, "k": 128, "direction": "bwd"},
         cm.Matmul(batched=True, direction="bwd")),
        ({"op": "gemm_fp8_dynquant", "m": 64, "n": 96, "k": 128, "dtype": "fp8"},
         cm.Matmul(dtype="fp8", quantise=True)),
        ({"op": "attention_prefill_noncausal", **ATTENTION}, cm.TiledAttention()),
        ({"op": "attention_prefill", **ATTENTION, "direction": ""}, cm.TiledAttention(causal=True)),
        ({"op": "attention_decode", **{k: v for k, v in ATTENTION.items() if k != "seq_q"}},
         cm.DecodeAttention()),
        ({"op": "softmax", "m": 64, "n": 96, "direction": "bwd"}, cm.Softmax(direction="bwd")),
        ({"op": "layernorm", "m": 64, "n": 96}, cm.Norm(kind="layer")),
        ({"op": "rmsnorm", "m": 64, "n": 96}, cm.Norm(kind="rms")),
        ({"op": "gelu", "m": 64, "n": 96}, cm.Elementwise(op="gelu")),
        ({"op": "silu_and_mul", "m": 64, "n": 96}, cm.Elementwise(op="silu-and-mul")),
        ({"op": "elementwise_add", "m": 64, "n": 96}, cm.Elementwise(op="add")),
        # Pointwise operations of torch that no table has, by either name.
        ({"op": "elementwise_sub", "m": 64, "n": 96}, cm.Elementwise(op="sub")),
        ({"op": "exp", "m": 64, "n": 96}, cm.Elementwise(op="exp")),
        ({"op": "sigmoid", "m": 64, "n": 96}, cm.Elementwise(op="sigmoid")),
        ({"op": "gdn_chunk_prefill", **DELTA}, cm.GatedDeltaNet(form="chunked")),
        ({"op": "gdn_recurrent_decode", **DELTA, "seq_q": 1}, cm.GatedDeltaNet(form="recurrent")),
        ({"op": "causal_conv1d_prefill", **CONV}, cm.CausalConv1d(decode=False)),
        ({"op": "causal_conv1d_decode", **CONV, "seq_q": 1}, cm.CausalConv1d(decode=True)),
        ({"op": "rnn", **STACK}, cm.RNN()),
        # cuDNN's layers overlap (Appleyard et al., arXiv 1604.01946), but for two ways; torch's are cuDNN's.
        ({"op": "gru", **STACK, "framework": "pytorch 2.5"}, cm.GRU(wavefront=True)),
        ({"op": "lstm", **STACK, "framework": "cudnn 9"}, cm.LSTM(wavefront=True)),
        ({"op": "lstm", **STACK, "framework": "cudnn 9", "bidirectional": 1}, cm.LSTM(bidirectional=True)),
        ({"op": "model_end_to_end", **MODEL, "kernel": "GPT-3 small"}, cm.EagerTransformer(style="gpt2")),
        # A row need not name its model.
        ({"op": "model_end_to_end", **MODEL}, cm.EagerTransformer()),
        ({"op": "model_end_to_end", **MODEL, "kernel": None}, cm.EagerTransformer()),
        ({"op": "model_end_to_end", **MODEL, "kernel": "bert-large", "mode": "train", "direction": "bwd"},
         cm.EagerTransformer(style="bert", dropout=True, direction="bwd")),
        ({"op": "model_end_to_end", **MODEL, "kernel": "opt-1.3b", "mode": "infer"},
         cm.EagerTransformer(style="opt")),
    ],
    ids=lambda given: given["op"] if isinstance(given, dict) else "",
)  # fmt: skip
def test_op_and_columns_are_the_layer_and_its_sizes(row, layer):
    scored = score(pd.DataFrame([{"gpu": "h200-sxm", "dtype": "bf16", **row}]))
    sizes = {OURS.get(name, name): size for name, size in row.items() if isinstance(size, int)}
    sizes.pop("bidirectional", None)
    if "conv1d" in row["op"]:  # its channels are the table's n
        sizes["d_model"] = sizes.pop("n")
    whose = {"framework": row["framework"].split()[0]} if "framework" in row else {}
    kernel = None if row["op"] == "model_end_to_end" else row.get("kernel")  # there it is the model's name
    p = cm.predict(layer, "h200-sxm", sizes, kernel=kernel, **whose)
    assert scored["reason"][0] == ""
    # Powers of arrays may be rounded differently in the last digit than those of scalars.
    assert [scored["seconds"][0], scored["lower_s"][0]] == pytest.approx([p.seconds, p.lower_s], rel=1e-12)


@pytest.mark.parametrize(
    ("op", "flag", "layer"),
    [
        ("elementwise_mul", "in_place", cm.Elementwise(op="mul", in_place=True)),
        ("elementwise_mul", "shared", cm.Elementwise(op="mul", shared=True)),
        ("pass_arithmetic", "in_place", cm.layers.get("memory-pass")(op="arithmetic", in_place=True)),
    ],
)
def test_operands_that_are_one_table_lower_the_bound(op, flag, layer):
    """Of three tables that H200's cache cannot hold, two are the same: less has to move."""
    row = {"gpu": "h200-sxm", "dtype": "bf16", "op": op, "m": 65536, "n": 1024, "written_bytes": 2**27}
    one, two = score(pd.DataFrame([row | {flag: told} for told in (True, False)]))["lower_s"]
    sizes = {name: row[name] for name in layer.required}
    assert one == cm.predict(layer, "h200-sxm", sizes).lower_s < two


def test_device_is_the_same_by_name_alias_or_file():
    """torch's stack of layers is cuDNN's wavefront on NVIDIA's GPUs, however the device is named."""
    path = Path(cm.hardware.__file__).parent / "nvidia" / "h200-sxm.yaml"
    names = ["nvidia/h200-sxm", "h200-sxm", "H200", "NVIDIA/H200-SXM", "nvidia h200", str(path)]
    row = {"op": "lstm", "dtype": "fp16", "framework": "pytorch", **STACK}
    scored = score(pd.DataFrame([{"gpu": name, **row} for name in names]))
    for answer in ("seconds", "lower_s", "constants_from"):
        assert scored[answer].nunique() == 1


def test_a_convolution_may_be_given_by_its_tokens():
    """m tokens, n channels, k taps: one sequence, or one step of m sequences; the table is unchanged."""
    prefill, decode = {"op": "causal_conv1d_prefill", "m": 4096}, {"op": "causal_conv1d_decode", "m": 64}
    one, two = [(1, 4096), (None, None), (1, None), (None, 4096)], [(2, 2048), (2, None), (None, 2048)]
    rows = [prefill | {"batch": batch, "seq_q": seq} for batch, seq in one + two]
    steps = [(64, 1), (None, None), (None, 1), (64, None)]
    rows += [decode | {"batch": batch, "seq_q": seq} for batch, seq in steps]
    rows += [{"op": "causal_conv1d_prefill", "m": m, "batch": 3} for m in (4096, None)]
    table = pd.DataFrame([{"gpu": "h200-sxm", "dtype": "bf16", "n": 2048, "k": 4, **row} for row in rows])
    scored = score(table)
    for start, stop in ((0, 4), (4, 7), (7, 11)):
        assert scored["reason"][start:stop].eq("").all()
        assert scored["seconds"][start:stop].nunique() == 1
    assert scored["reason"][11] == "seq_q: wanted a whole number of at least 1, got 1365.3333333333333"
    assert scored["reason"][12] == "seq_q: empty, and this op needs it"
    pd.testing.assert_frame_equal(scored[list(table)], table)
    text = table.astype({"batch": "string", "seq_q": "category", "op": "string"})
    assert score(text)["seconds"].equals(scored["seconds"])
    alone = score(table.iloc[[1, 8]].drop(columns=["batch", "seq_q"]))
    assert list(alone["seconds"]) == list(scored["seconds"][[1, 8]])
    for row, lacking in ((5, "seq_q"), (6, "batch")):
        (known,) = score(table.iloc[[row]].drop(columns=lacking))["seconds"]
        assert known == scored["seconds"][row]


def test_timer_or_the_name_of_a_harness_gives_the_harness():
    """Tables call four different things latency; they may also name the harness itself."""
    assert measured.harness("kineto-kernel-median-1us") == "kernel-time"
    assert measured.harness("host-walltime-median50") == "host-wall"
    assert measured.harness("graph-replay") == "graph-replay"
    assert measured.harness("") is measured.harness(None) is measured.harness(np.nan) is None


@pytest.mark.parametrize("seed", range(3))
def test_answers_do_not_depend_on_the_order_of_rows(table, seed):
    shuffled = table.sample(frac=1.0, random_state=seed)
    again = score(shuffled)
    # The index is kept, and so is the order.
    assert list(again.index) == list(shuffled.index)
    wanted = score(table).loc[shuffled.index]
    pd.testing.assert_frame_equal(again, wanted, rtol=1e-12)


@pytest.mark.parametrize("kind", ["category", "object", "str"])
def test_text_columns_may_have_any_dtype(table, kind):
    text = ["gpu", "op", "dtype", "framework"]
    again = score(table.astype(dict.fromkeys(text, kind)))
    assert np.array_equal(again["seconds"], score(table)["seconds"])


def test_row_that_cannot_be_predicted_says_why_and_changes_no_other(table):
    broken = table.astype({"m": object})
    broken.loc[0, "m"] = "many"
    broken.loc[1, "k"] = -4
    broken.loc[2, "op"] = "sofmax"
    broken.loc[3, "gpu"] = None
    broken.loc[4, "gpu"] = "h201"
    broken.loc[5, "dtype"] = "fp3"
    scored = score(broken)
    said = ["m: wanted", "k: wanted", "unknown op 'sofmax'", "gpu: empty", "unknown device 'h201'", "fp3"]
    for row, text in enumerate(said):
        assert text in scored["reason"][row]
        assert np.isnan(scored["seconds"][row])
        assert scored["bound"][row] == ""
    assert np.array_equal(scored["seconds"][6:], score(table)["seconds"][6:])
    assert (scored["reason"][6:] == "").all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"heads_kv": 5}, "heads must be a multiple of kv_heads"),
        ({"seq_kv": 128}, "seq_kv of at least seq"),
        ({"head_dim": "wide"}, "head_dim: wanted a whole number of at least 1, got 'wide'"),
        ({"head_dim": None}, "head_dim: empty, and this op needs it"),
    ],
)
def test_sizes_that_do_not_go_together_change_no_other_row(change, text):
    row = {"gpu": "h200-sxm", "op": "attention_prefill", "dtype": "bf16", "batch": 4, "heads_q": 32}
    row |= {"seq_q": 512, "seq_kv": 512, "heads_kv": 8, "head_dim": 128}
    others = [row, row | {"heads_kv": 4}, row | {"seq_q": 100}]
    scored = score(pd.DataFrame([others[0], row | change, others[1], row | change, others[2]], dtype=object))
    assert scored["reason"].str.contains(text).tolist() == [False, True, False, True, False]
    assert (scored["reason"][[0, 2, 4]] == "").all()
    assert np.array_equal(scored["seconds"][[0, 2, 4]], score(pd.DataFrame(others))["seconds"])
    assert scored["seconds"][[1, 3]].isna().all()


def test_product_too_large_changes_no_other_row():
    row = {"gpu": "h200-sxm", "op": "gemm", "dtype": "bf16", "m": 128.0, "n": 128.0, "k": 128.0}
    scored = score(pd.DataFrame([row, row | dict.fromkeys("mnk", 2.0**40), row]))
    assert scored["reason"].str.contains("too large together").tolist() == [False, True, False]
    assert scored["seconds"][0] == scored["seconds"][2] > 0


def test_rows_with_faults_are_those_that_brute_force_finds():
    """20,000 rows with many distinct faults; each fault must be searched for once, not row by row."""
    rng, n = np.random.default_rng(0), 20_000
    table = pd.DataFrame(
        {
            "gpu": "h200-sxm", "op": "attention_prefill", "dtype": "bf16", "head_dim": 128,
            "batch": rng.integers(1, 9, n), "seq_q": 2 ** rng.integers(4, 14, n),
            "heads_q": rng.choice([8, 16, 32], n), "heads_kv": rng.choice([1, 3, 5, 8], n),
        }
    )  # fmt: skip
    table["seq_kv"] = (table["seq_q"] * rng.choice([0.5, 1, 2], n)).astype(int)
    wrong = (table["heads_q"] % table["heads_kv"] != 0) | (table["seq_kv"] < table["seq_q"])
    assert 0.2 < wrong.mean() < 0.8
    assert ((score(table, rung="bound")["reason"] != "") == wrong).all()


LSTM = {
    "gpu": "V100 (DGX-1, i.e. SXM2)",
    "op": "lstm",
    "dtype": "fp16",
    "batch": 16,
    "seq": 25,
    "hidden": 512,
}


def test_recurrent_only_ignores_the_input():
    """contract.md: with recurrent_only, input is ignored, whatever the column holds."""
    rows = [LSTM | {"recurrent_only": True, "input": told} for told in (512, 8, 0, -1, None, "skipped")]
    scored = score(pd.DataFrame(rows))
    assert (scored["reason"] == "").all()
    assert scored["seconds"].nunique() == 1
    # For the whole layer it is a size like any other.
    whole = score(pd.DataFrame([LSTM | {"recurrent_only": False, "input": told} for told in (8, 0)]))
    assert whole["reason"].tolist() == ["", "input: wanted a whole number of at least 1, got 0"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"framework": "pytorch loop"}, "a framework's loop"),
        ({"framework": "TensorFlow 1.5"}, "a framework's loop"),
        ({"framework": "pytorch 1.0", "kernel": "LSTMCell in a for loop"}, "a framework's loop"),
        ({"heads_q": 2}, "a block-diagonal recurrence"),
    ],
)
def test_recurrences_that_no_layer_describes_have_a_reason(change, text):
    """contract.md: block-diagonal recurrences, framework loops."""
    same = [LSTM, LSTM | {"framework": "cudnn 7.0", "kernel": "loop over cuDNN"}, LSTM | {"heads_q": 1}]
    scored = score(pd.DataFrame([LSTM | change, *same]))
    assert text in scored["reason"][0]
    assert np.isnan(scored["seconds"][0])
    assert (scored["reason"][1:] == "").all()


@pytest.mark.parametrize(
    ("row", "column", "text"),
    [
        ({"op": "gemm", "m": 64, "n": 64, "k": 64}, "b", "several products, which op bmm names"),
        ({"op": "gemm_fp8_dynquant", "dtype": "fp8", "m": 64, "n": 64, "k": 64}, "b", "several products"),
        ({"op": "attention_decode", **ATTENTION}, "seq_q", "several queries a sequence"),
    ],
)
def test_column_that_makes_it_another_op_is_refused(row, column, text):
    """A gemm of b = 8 is eight times the predicted work, and decoding has one query a sequence."""
    rows = [{"gpu": "h200-sxm", "dtype": "bf16"} | row | {column: told} for told in (None, 1, 8)]
    scored = score(pd.DataFrame(rows))
    assert scored["reason"].tolist()[:2] == ["", ""]
    assert scored["seconds"][0] == scored["seconds"][1] > 0
    assert text in scored["reason"][2]
    assert np.isnan(scored["seconds"][2])


@pytest.mark.parametrize("flag", ["recurrent_only", "bidirectional"])
def test_flag_is_yes_or_no_and_anything_else_has_a_reason(flag):
    yes, no = ("T", "true", "1", "yes", "Y"), ("F", "FALSE", "0", "no", "", None)
    scored = score(pd.DataFrame([LSTM | {flag: told} for told in (*yes, *no, "maybe")]))
    assert (scored["reason"][: len(yes) + len(no)] == "").all()
    assert scored["seconds"][: len(yes)].nunique() == scored["seconds"][len(yes) : -1].nunique() == 1
    assert scored["seconds"][0] != scored["seconds"][len(yes)]
    assert scored["reason"].iloc[-1] == f"{flag}: wanted true or false, got 'maybe'"


#: A value of every column that some op needs.
NEEDS = {
    "b": 2, "batch": 2, "seq": 512, "seq_q": 512, "seq_kv": 512, "heads_q": 8, "head_dim": 128, "m": 512,
    "n": 1024, "k": 4, "hidden": 256, "d_model": 1024, "n_layers": 2, "vocab": 1000, "written_bytes": 2**20,
    "read_bytes": 2**22, "least_bytes": 2**21, "taps": 9,
}  # fmt: skip


@pytest.mark.parametrize("op", measured.OPERATIONS_MEASURED)
def test_direction_is_predicted_or_refused(op):
    """A backward pass must not silently be timed as a forward one."""
    row = {"gpu": "b200-sxm", "op": op, "dtype": "fp8" if "fp8" in op else "bf16"}
    row |= {column: NEEDS[column] for column in measured.OPERATIONS_MEASURED[op].columns}
    if op == "convolution_depthwise":
        row["k"] = 1
    said, forward, backward, other = (
        score(pd.DataFrame([{**row, **told}])).iloc[0]
        for told in ({}, {"direction": "fwd"}, {"direction": "bwd"}, {"direction": "up"})
    )
    assert said["seconds"] == forward["seconds"] > 0
    assert "direction" in backward["reason"] or backward["seconds"] != forward["seconds"] or _linear(op)
    assert "up" in other["reason"]


@pytest.mark.parametrize("op", measured.OPERATIONS_MEASURED)
def test_layer_has_the_format_of_its_row(op):
    """Most rows above are in bf16, the format that layers have by default."""
    dtype = "fp8" if "fp8" in op else "fp16"
    layer = measured.OPERATIONS_MEASURED[op].layer(dtype, {"op": op})
    assert layer.dtype == dtype != type(layer)().dtype


def _linear(op: str) -> bool:
    """Return whether backward moves as many bytes as forward: it needs neither operand, only dC."""
    return bool(re.fullmatch("(elementwise_)?(add|sub|copy|.*_scalar)", op))


def test_row_without_a_kernel_model_has_a_reason():
    """Products that quantise A on a CPU; the other rows of the table are still predicted."""
    row = {"op": "gemm_fp8_dynquant", "dtype": "fp32", "m": 64, "n": 64, "k": 64}
    scored = score(
        pd.DataFrame([{**row, "gpu": "cpu/epyc-9654"}, {**row, "gpu": "h200-sxm", "dtype": "fp8"}])
    )
    assert "quantise" in scored["reason"][0]
    assert scored["reason"][1] == ""


@pytest.mark.parametrize("gpu", ["a100-sxm-80gb", "nvidia/a100-sxm-80gb", "A100-SXM4-80GB"])
def test_missing_key_of_vllms_decode_rows_is_added_by_any_name_of_the_device(gpu):
    """vLLM 0.14's decode rows on A100 leave the new token out: they have one key more than they state."""
    row = {"gpu": gpu, "op": "attention_decode", "dtype": "bf16", "batch": 512, "seq_kv": 512}
    row |= {"heads_q": 32, "heads_kv": 8, "head_dim": 128}
    older, newer = (
        score(pd.DataFrame([{**row, "framework": f"vllm {release}"}]))["lower_s"][0]
        for release in ("0.14.0", "0.15.0")
    )
    assert older > newer


@pytest.mark.parametrize(
    "change",
    [{"gpu": "h200-sxm"}, {"framework": "pytorch 0.14.0"}, {"op": "attention_prefill", "seq_q": 512}],
)
def test_no_key_is_added_to_other_rows(change):
    row = {"gpu": "a100-sxm-80gb", "op": "attention_decode", "dtype": "bf16", "framework": "vllm 0.14.0"}
    row |= {"batch": 512, "seq_kv": 512, "heads_q": 32, "heads_kv": 8, "head_dim": 128, **change}
    unsaid = {**row, "framework": row["framework"].split()[0]}
    said, plain = score(pd.DataFrame([row, unsaid]))["lower_s"]
    assert said == plain > 0


def test_empty_table_is_scored_and_a_repeated_column_refused():
    empty = score(pd.DataFrame(columns=["gpu", "op", "dtype", "m"]))
    assert list(empty.columns) == ["gpu", "op", "dtype", "m", *ADDED]
    assert empty.empty
    twice = pd.DataFrame([["t4", "softmax", "fp16", 1, 2]], columns=["gpu", "op", "dtype", "m", "m"])
    with pytest.raises(TableError, match="more than one column m"):
        score(twice)


def test_columns_of_a_csv_that_are_not_read_keep_their_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "id,gpu,op,dtype,m,n,driver,note,framework,empty\n"
        "007,h200-sxm,softmax,bf16,4096,1024,550.10,NA,NA,\n"
        "010,h200-sxm,softmax,bf16,NA,1024,550,None,,\n",
        encoding="utf-8",
    )
    scored = score(read_measured(path))
    for name, texts in {"id": ["007", "010"], "driver": ["550.10", "550"], "note": ["NA", "None"]}.items():
        assert scored[name].tolist() == texts
    assert scored["empty"].tolist() == ["", ""]
    # Columns that are read hold numbers, and NA is empty.
    assert scored["reason"].tolist() == ["", "m: empty, and this op needs it"]
    assert scored["seconds"][0] == cm.predict(cm.Softmax(), "h200-sxm", m=4096, n=1024).seconds


def test_columns_named_as_answers_are_kept_under_other_names(table):
    own = {"seconds": 7, "reason": "slow", "seconds_given": "mine"}
    scored = score(table.assign(**own))
    names = ["seconds_given_given", "reason_given", "seconds_given"]
    assert list(scored) == [*table.columns, *names, *ADDED]
    assert [set(scored[name]) for name in names] == [{7}, {"slow"}, {"mine"}]
    pd.testing.assert_frame_equal(scored.drop(columns=names), score(table))


@pytest.mark.parametrize(
    ("told", "text"), [("1e30", "at most"), (10**30, "at most"), ("-4", "at least 1, got -4")]
)
def test_invalid_size_has_a_reason(told, text):
    rows = [{"gpu": "t4", "op": "softmax", "dtype": "fp16", "m": m, "n": 64} for m in (told, "many", 8)]
    first, second, third = score(pd.DataFrame(rows))["reason"]
    assert text in first
    assert second == "m: wanted a whole number of at least 1, got 'many'"
    assert third == ""


def test_products_differ_only_by_the_tile_in_their_kernels_name():
    # Only the tile in a product's kernel's name matters; for attention the whole name does.
    rows = {"gpu": "h200-sxm", "dtype": "bf16", "op": "gemm", "m": 512, "n": 512, "k": 512}
    names = ["nvjet_a", "nvjet_b", None, "ampere_sgemm_128x64_tn"]
    found = score(pd.DataFrame([{**rows, "kernel": name} for name in names]))["seconds"]
    assert found[0] == found[1] == found[2] != found[3]


def test_rows_that_differ_in_names_without_meaning_are_predicted_together(monkeypatch):
    """Tables name hundreds of kernels; a prediction for each would take minutes."""
    module, asked = sys.modules["costmodel.score"], []
    real = module.measured_as
    monkeypatch.setattr(module, "measured_as", lambda *how, **rung: asked.append(how) or real(*how, **rung))
    row = {"gpu": "h200-sxm", "dtype": "bf16", "op": "softmax", "m": 64, "n": 64}
    scored = score(pd.DataFrame([row | {"kernel": f"softmax_{n}"} for n in range(50)]))
    assert len(asked) == 1
    assert scored["seconds"].nunique() == 1


def test_grid_of_a_gemm_gives_the_number_of_its_parts_of_k():
    # 4 × 2 tiles of 64 × 128: 8 blocks a part. No parts: a fraction, a backward pass, another op.
    name = "volta_sgemm_128x64_tn"
    rows = [
        ("gemm", name, 40, "fwd"),
        ("gemm", name, 41, "fwd"),
        ("gemm", name, 40, "bwd"),
        ("gemm", name, np.nan, "fwd"),
    ]
    rows += [("gemm", "tensile_MT128x64x16", 40, "fwd"), ("bmm", name, 40, "fwd"), ("gemm", None, 40, "fwd")]
    rows += [("gemm", name, 8, "fwd"), ("gemm", name, 4, "fwd")]  # one part; fewer blocks than tiles
    table = pd.DataFrame(rows, columns=["op", "kernel", "grid", "direction"]).assign(m=256, n=256, k=4096)
    names = with_parts(table)["kernel"]
    assert names[0] == f"{name}_parts5"
    assert names[1:4].tolist() == [name] * 3
    assert names[4:6].tolist() == table["kernel"][4:6].tolist()
    assert names[7:].tolist() == [f"{name}_parts1", name]
    table = table.assign(gpu="t4", dtype="fp32", framework="pytorch")
    told, named, whole = (
        score(table[:1].assign(**change))["seconds"][0]
        for change in ({}, {"kernel": f"{name}_parts5", "grid": np.nan}, {"grid": 8})
    )
    assert told == named != whole


@pytest.mark.parametrize("none", [np.nan, 0.0, -1.0, np.inf])
def test_summary_has_the_errors_of_each_cell(none):
    """A row whose measured time is invalid counts as a row and has no error."""
    table = pd.DataFrame(
        {
            "gpu": "a", "op": ["x", "x", "x", "y"], "dtype": "bf16", "framework": "f",
            "latency_s": [1.0, 2.0, none, 4.0],
            "seconds": [1.1, 1.6, 1.0, np.nan],
            "lower_s": [0.5, 2.5, 0.5, np.nan],
        }
    )  # fmt: skip
    x, y = summary(table).to_dict("records")
    assert (x["rows"], x["predicted"]) == (3, 2)
    # +10 % and −20 %.
    assert x["mean_ape"] == pytest.approx(15)
    assert x["median_ape"] == pytest.approx(15)
    assert x["bias"] == pytest.approx(-5)
    assert x["under_lower"] == pytest.approx(50)
    assert (y["rows"], y["predicted"]) == (1, 0)


@pytest.mark.parametrize("nothing", [None, np.nan, ""])
def test_summary_leaves_out_no_row(nothing):
    # Many tables name no framework, or only in some rows; the device may be missing too.
    table = pd.DataFrame(
        {
            "gpu": ["a", "a", nothing], "op": "x", "dtype": "bf16", "framework": ["f", nothing, "f"],
            "latency_s": 1.0, "seconds": [1.1, 1.2, np.nan], "lower_s": 0.5,
        }
    )  # fmt: skip
    cells = summary(table).to_dict("records")
    assert [(cell["gpu"], cell["framework"], cell["rows"]) for cell in cells] == [
        ("", "f", 1),
        ("a", "", 1),
        ("a", "f", 1),
    ]
    assert [cell["mean_ape"] for cell in cells[1:]] == pytest.approx([20, 10])


def test_unknown_rung_is_refused(table):
    with pytest.raises(UnknownNameError, match="unknown rung 'kernl'; did you mean 'kernel'"):
        score(table, rung="kernl")


def test_table_without_the_columns_that_every_row_needs_is_refused():
    with pytest.raises(TableError, match="lacks the columns gpu, op; it has 'dtype', ' gpu'"):
        score(pd.DataFrame({"dtype": ["bf16"], " gpu": ["t4"]}))


def test_column_that_only_some_ops_need_is_a_reason_of_their_rows():
    rows = [{"op": "gemm", "m": 64, "n": 64}, {"op": "softmax", "m": 64, "n": 64}]
    scored = score(pd.DataFrame([{"gpu": "t4", "dtype": "fp16", **row} for row in rows]))
    assert scored["reason"].tolist() == ["the table lacks the column k, which this op needs", ""]
    assert scored["seconds"].notna().tolist() == [False, True]


def test_columns_of_another_kind_are_refused_by_name(table):
    spans = table.assign(latency_s=pd.to_timedelta(1e-5, unit="s"))
    with pytest.raises(TableError, match=r"^column latency_s: wanted numbers, got timedelta64"):
        score(spans)
    listed = table.assign(gpu=[[name] for name in table["gpu"]])
    with pytest.raises(TableError, match=r"^column gpu: wanted text, got lists$"):
        score(listed)
    levels = table.set_axis(pd.MultiIndex.from_product([table.columns, ["x"]]), axis=1)
    with pytest.raises(TableError, match="columns have 2 names each"):
        score(levels)


def test_list_in_place_of_a_size_has_a_reason():
    row = {"gpu": "h200-sxm", "op": "gemm", "dtype": "bf16", "m": [1, 2], "n": 8, "k": 8}
    (reason,) = score(pd.DataFrame([row]))["reason"]
    assert reason == "m: wanted a whole number of at least 1, got [1, 2]"
