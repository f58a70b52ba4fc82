"""What each command answers to a valid question."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import costmodel as cm
from costmodel.cli.options import sizes

FLASH = ("tiled-attention", "-m", "h200-sxm", "--rung", "bound", "-D", "batch=4", "heads=32", "head_dim=128")

#: What contract.md promises of `predict --json`.
PROMISED = (
    "layer",
    "device",
    "rung",
    "shapes",
    "options",
    "seconds",
    "lower_s",
    "serial_s",
    "constants_from",
    "schema",
    "bound",
    "matrix_flops",
    "vector_flops",
    "special_flops",
    "hbm_bytes",
    "l2_bytes",
    "depth",
    "pram_depth",
    "path",
    "launches",
    "footprint_bytes",
    "phases",
)


def test_predict_json_is_one_object_with_every_promised_key(costmodel):
    ended = costmodel("predict", *FLASH, "seq=8192", "--json")
    assert (ended.status, ended.err) == (0, "")
    answer = json.loads(ended.out)
    assert set(PROMISED) <= set(answer)
    # 4·B·h·n²·d over the dense peak: H200 SXM, 989.4 TFLOP/s (MLPerf and NVIDIA's datasheet).
    assert answer["seconds"] == pytest.approx(4 * 4 * 32 * 8192**2 * 128 / 989.4e12)
    assert (answer["bound"], answer["rung"], answer["constants_from"]) == ("matrix:bf16", "bound", "none")
    assert answer["shapes"]["seq_kv"] == 8192


def test_rounds_that_are_alike_are_counted(costmodel):
    """Ring Attention on 8 devices: the first round, 6 with a transfer beside them, and the last."""
    words = ("predict", "ring-attention", "-m", "h200-sxm", "-D", "batch=1", "heads=8", "head_dim=128")
    out = costmodel(*words, "seq=65536", "devices=8").out
    assert re.findall(r"^  (attention.*?)  ", out, re.MULTILINE) == [
        "attention",
        "attention × 6",
        "attention",
    ]


def test_kernels_that_do_not_run_are_in_json_alone(costmodel):
    one = ("predict", "lstm", "-m", "h200-sxm", "-D", "batch=8", "hidden=1024", "seq=512")
    assert "layers 2…L" not in costmodel(*one).out
    assert "layers 2…L" in costmodel(*one, "num_layers=2").out
    phases = json.loads(costmodel(*one, "--json").out)["phases"]
    assert [phase["repeats"] for phase in phases] == [1, 0, 1]


def test_crossover_states_rung_and_constants_of_each_layer(costmodel):
    shapes = ("--over", "seq", "-m", "h200-sxm", "-D", "batch=8", "hidden=1024", "heads=16", "head_dim=64")
    lines = costmodel("crossover", "lstm", "tiled-attention", *shapes).out.splitlines()[1:3]
    assert [line.partition(", ")[0] for line in lines] == [
        "lstm: rung kernel",
        "tiled-attention: rung calibrated",
    ]
    alike = costmodel("crossover", "lstm", "tiled-attention", *shapes, "--rung", "bound").out.splitlines()
    assert alike[1] == "rung bound, constants from none"


def test_crossover_warns_if_one_layer_was_never_measured(costmodel):
    words = ("crossover", "mamba-2", "tiled-attention", "-m", "a100-sxm-80gb", "--over", "seq")
    words += ("-D", "batch=1", "heads=32", "head_dim=64")
    warning = "no kernel of mamba-2 was measured: its time is less certain than that of tiled-attention\n"
    assert warning in costmodel(*words).out
    assert "was measured" not in costmodel(*words, "--rung", "bound").out


def test_whole_numbers_of_a_sweep_are_written_without_decimals(costmodel, tmp_path):
    shapes = ("-m", "h200-sxm", "-D", "seq=128,512", "batch=8", "hidden=64", "heads=2", "head_dim=64")
    words = ("sweep", "lstm", "tiled-attention", *shapes)
    costmodel(*words, "-o", tmp_path / "sweep.csv")
    text = (tmp_path / "sweep.csv").read_text(encoding="utf-8")
    assert text == costmodel(*words).out
    # Also in columns of sizes that one layer lacks; no time here happens to be whole.
    assert not re.search(r"\.0\b", text)
    rows = json.loads(costmodel(*words, "--json").out)
    assert [repr(row["seq"]) for row in rows] == ["128", "512"] * 2
    assert [repr(row["heads"]) for row in rows] == ["None", "None", "2", "2"]


def test_every_spelling_of_sizes_gives_the_same_answer(costmodel):
    spellings = [
        ["-D", "batch=8", "-D", "seq=128", "-D", "hidden=64"],
        ["-D", "batch=8", "seq=128", "hidden=64"],
        ["--define", "batch=8", "seq=1.28e2", "hidden=64"],
        ["-Dbatch=8", "-Dseq=128", "-Dhidden=64"],
    ]
    answers = {
        costmodel("predict", "lstm", "-m", "a30", "--rung", "bound", *s, "--json").out for s in spellings
    }
    assert len(answers) == 1


def test_list_of_sizes_gives_an_array_of_answers(costmodel):
    answer = json.loads(costmodel("predict", *FLASH, "seq=1024,2048,4096", "--json").out)
    times = np.array(answer["seconds"])
    assert times[1:] / times[:-1] == pytest.approx(4.0)  # quadratic where compute binds
    table = costmodel("predict", *FLASH, "seq=1024..4096:log2").out.splitlines()
    assert [line.split()[0] for line in table[:4]] == ["seq", "1024", "2048", "4096"]


def test_sizes_are_shown_with_all_their_digits(costmodel):
    table = costmodel("predict", *FLASH, "seq=1048576,1048577").out.splitlines()
    assert [line.split()[0] for line in table[:3]] == ["seq", "1048576", "1048577"]
    assert " seq=1048577 " in costmodel("predict", *FLASH, "seq=1048577").out
    model = ("model", "llama-2-7b", "-m", "h200-sxm", "-D", "batch=1", "seq=1048577")
    assert " seq=1048577" in costmodel(*model).out
    assert " seq=1048577" in costmodel(*model, "--use", "generation", "--new", "2").out


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seq=7", 7.0),
        ("seq=1,2,4", [1, 2, 4]),
        ("seq=100..400:100", [100, 200, 300, 400]),
        ("seq=3..5", [3, 4, 5]),
        ("seq=100..450:100", [100, 200, 300, 400]),
        ("seq=128..1024:log2", [128, 256, 512, 1024]),
        ("seq=100..1000:log2", [100, 200, 400, 800]),
        ("seq=3..98304:log2", [3 * 2**i for i in range(16)]),
    ],
)
def test_sizes_are_read_as_written(text, values):
    assert np.array_equal(sizes([text])["seq"], values)


def test_options_and_what_if_change_the_answer(costmodel):
    def seconds(*more):
        return json.loads(costmodel("predict", *FLASH, "seq=65536", "--json", *more).out)["seconds"]

    causal = seconds("--set", "causal=true")
    assert causal / seconds() == pytest.approx((65536 + 1) / 2 / 65536)  # n(n+1)/2 pairs of n²
    assert seconds("--device-set", "bf16=1.9788 PFLOP/s") == pytest.approx(seconds() / 2)


def test_named_kernel_is_the_one_predicted(costmodel):
    sizes = ("-m", "b200-sxm", "-D", "batch=4", "heads=32", "seq=8192", "head_dim=128", "--json")
    times = {
        (command, kernel): json.loads(costmodel(command, "tiled-attention[bf16]", *sizes, *kernel).out)[
            "seconds"
        ]
        for command in ("predict", "explain")
        for kernel in ((), ("--kernel", "fa2"))
    }
    for command in ("predict", "explain"):
        assert times[command, ("--kernel", "fa2")] > 2 * times[command, ()]


def test_explain_takes_a_model_on_several_devices(costmodel):
    asked = ("llama-2-70b", "--use", "decode", "-m", "h100-sxm", "--tensor", "8", "--json", "-D", "batch=16")
    explained = json.loads(costmodel("explain", *asked, "seq_kv=2048").out)
    shown = json.loads(costmodel("model", *asked, "seq=2048").out)
    assert explained["seconds"] == pytest.approx(shown["seconds"], rel=1e-3)
    assert explained["limits_s"]["link"] > 0
    refused = costmodel("explain", "lstm", "-m", "t4", "--tensor", "2", "-D", "batch=1", "seq=1", "hidden=1")
    assert (refused.status, "--tensor applies to a model" in refused.err) == (2, True)


def test_predict_states_the_rate_reached_and_its_share(costmodel):
    """At rung bound a compute-limited product reaches the peak, and a norm the bandwidth."""
    product = costmodel(
        "predict", "matmul", "-m", "h200-sxm", "--rung", "bound", "-D", "m=8192", "n=8192", "k=8192"
    )
    assert re.search(r"reaches +989.4 TFLOP/s, 100.0% of matrix:bf16; ", product.out)
    norm = costmodel("predict", "norm", "-m", "h200-sxm", "--rung", "bound", "-D", "m=8192", "n=8192")
    assert re.search(r"reaches +4.8 TB/s, 100.0% of hbm\n", norm.out)


def test_more_than_the_memorys_bandwidth_comes_from_the_cache(costmodel):
    """34 MB of weights fit into the 96 MB of L2 of an L40S; the datasheet's memory has 864 GB/s."""
    words = ("predict", "matmul", "-m", "l40s", "-D", "m=16", "n=4096", "k=4096")
    for state in ("warm", "cold"):
        answer = json.loads(costmodel(*words, "--state", state, "--json").out)
        faster = answer["hbm_bytes"] / answer["seconds"] > 864e9
        assert faster == (state == "warm")
        assert ("from the cache in part" in costmodel(*words, "--state", state).out) == faster


def test_predict_says_what_does_not_fit_the_memory(costmodel):
    """Scores of 65,536² in 16 bits are 8.6 GB a head; T4 has 16 GB."""
    words = ("predict", "dense-attention", "-m", "t4", "--rung", "bound", "--set", "dtype=fp16")
    sizes = ("-D", "batch=1", "heads=4", "head_dim=64")
    assert "does not fit the device's memory of 16 GB" in costmodel(*words, *sizes, "seq=65536").out
    assert "not fit" not in costmodel(*words, *sizes, "seq=4096").out
    assert "1 of 2 do not fit" in costmodel(*words, *sizes, "seq=4096,65536").out
    assert json.loads(costmodel(*words, *sizes, "seq=4096,65536", "--json").out)["fits"] == [True, False]


@pytest.mark.parametrize("command", ["sweep", "crossover"])
def test_size_that_overrides_another_layers_default_is_warned_of(costmodel, command):
    """Mamba's inner width defaults to twice the model's, which an LSTM's `hidden` would override."""
    over = ("seq=64",) if command == "sweep" else ()
    more = () if command == "sweep" else ("--over", "seq", "--of", "flops")
    words = (command, "lstm", "mamba", "-m", "h200-sxm", *more, "-D", "batch=1", "d_model=512", *over)
    assert "hidden is set for mamba too, whose default is hidden=2*d" in costmodel(*words, "hidden=512").err
    assert costmodel(*words, "hidden=1024").err == ""


def test_explain_states_the_time_of_each_limit_alone(costmodel):
    words = ("explain", "matmul", "-m", "h200-sxm", "-D", "m=64", "n=4096", "k=4096")
    answer = json.loads(costmodel(*words, "--json").out)
    assert {"hbm", "matrix:bf16", "l2"} <= set(answer["limits_s"])
    assert all(limit in costmodel(*words).out for limit in answer["limits_s"])


def test_size_may_have_the_name_of_an_option(costmodel):
    words = ("-m", "h200-sxm", "-D", "batch=1", "seq=64", "d_model=64", "state=32", "--state", "cold")
    answer = json.loads(costmodel("predict", "mamba", *words, "--json").out)
    assert (answer["shapes"]["state"], answer["state"]) == (32, "cold")
    assert "state_size" in costmodel("sweep", "mamba", *words).out


def test_spec_file_is_accepted_as_a_device(costmodel, tmp_path):
    source = next(p for p in cm.hardware.loader.FOLDER.glob("nvidia/t4.yaml"))
    copy = tmp_path / "t4.yaml"
    copy.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    words = ("-D", "m=64", "n=64", "k=64", "--set", "dtype=fp16", "--rung", "bound", "--json")
    assert (
        costmodel("predict", "matmul", "-m", copy, *words).out
        == costmodel("predict", "matmul", "-m", "nvidia/t4", *words).out
    )


def test_device_measured_here_is_listed_and_found(costmodel, tmp_path, monkeypatch):
    """Errors refer to `costmodel devices` for all names; every device after -m is found like the first."""
    shipped = (Path(cm.hardware.__file__).parent / "nvidia" / "t4.yaml").read_text("utf-8")
    own = tmp_path / "costmodel" / "nvidia-my-big-one.yaml"
    own.parent.mkdir()
    own.write_text(shipped.replace("nvidia/t4", "nvidia/my-big-one"), encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert json.loads(costmodel("devices", "--json").out)[-1]["device"] == "nvidia/my-big-one"
    words = ("-D", "m=1", "n=64", "k=64", "--set", "dtype=fp16")
    assert "did you mean 'my-big-one'" in costmodel("predict", "matmul", "-m", "my-big-on", *words).err
    monkeypatch.chdir(own.parent)
    for named in (("h200-sxm", "my-big-one", "Tesla T4"), ("H200", own.name, "t4")):
        swept = costmodel("sweep", "matmul", "-m", *named, *words, "--columns", "device")
        assert swept.out.split()[1:] == ["nvidia/h200-sxm", "nvidia/my-big-one", "nvidia/t4"]
    own.write_text(shipped.replace("nvidia/t4", "nvidia/my-big-one").replace("vendor:", "vendr:"), "utf-8")
    faulty = costmodel("devices", "--json")
    assert (faulty.status, len(json.loads(faulty.out))) == (0, len(cm.hardware.available()))
    assert "nvidia-my-big-one.yaml" in faulty.err


def test_devices_have_peaks_bandwidth_ridge_and_rung(costmodel):
    rows = {row["device"]: row for row in json.loads(costmodel("devices", "--json").out)}
    assert list(rows) == [*cm.hardware.available(), *cm.hardware.measured()]
    h200 = rows["nvidia/h200-sxm"]
    assert h200["peaks"]["bf16"] == 989.4e12
    assert h200["hbm_bytes_per_s"] == 4.8e12
    assert h200["ridge_flop_per_byte"] == pytest.approx(206.125)
    assert {row["best_rung"] for row in rows.values()} <= {"bound", "kernel", "calibrated"}
    units, _, *lines = costmodel("devices").out.splitlines()
    assert len(lines) == len(rows)
    assert "TFLOP/s" in units


def test_layers_are_listed_with_sizes_options_and_source(costmodel):
    rows = {row["layer"]: row for row in json.loads(costmodel("layers", "--json").out)}
    assert sorted(rows) == cm.layers.available()
    assert rows["lstm"]["required"] == ["batch", "seq", "hidden"]
    assert rows["lstm"]["defaults"] == {"input": "hidden", "num_layers": 1}
    assert rows["tiled-attention"]["options"]["causal"] == {"default": False, "type": "bool"}
    assert all(row["source"] and row["not_counted"] and row["summary"] for row in rows.values())
    text = costmodel("layers").out
    assert all(f"  {name}: " in text for name in rows)


@pytest.mark.parametrize("layer", cm.layers.available())
def test_show_gives_formulas_units_source_and_growth(costmodel, layer):
    answer = json.loads(costmodel("show", layer, "--json").out)
    counts = answer["counts"]
    assert all(row["unit"] and row["class"].startswith("O(") for row in counts.values())
    assert answer["source"]
    assert answer["not_counted"]
    assert all(size["meaning"] for size in answer["sizes"].values())
    text = costmodel("show", layer).out
    assert text.count("O(") >= len(counts)
    assert all(f"\n  {option}=" in text for option in answer["options"])


def test_show_states_degrees_and_latex(costmodel):
    counts = json.loads(costmodel("show", "dense-attention", "--json").out)["counts"]
    assert counts["matrix_flops"]["degrees"]["head_dim"] == "1"
    lstm = json.loads(costmodel("show", "lstm", "--json").out)["counts"]
    assert lstm["depth"] == {"formula": "num_layers*seq", "unit": "steps"} | {
        key: lstm["depth"][key] for key in ("class", "degrees")
    }
    assert lstm["depth"]["degrees"] == {"num_layers": "1", "seq": "1"}
    assert r"\lceil" in costmodel("show", "tiled-attention", "--latex").out


SWEEP = ("sweep", "lstm", "gru", "-m", "h200-sxm", "-m", "mi300x", "--rung", "bound")
GRID = ("-D", "seq=128..1024:log2", "batch=8", "hidden=256")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_sweep_writes_the_librarys_table(costmodel, tmp_path, suffix):
    path = tmp_path / f"sweep{suffix}"
    ended = costmodel(*SWEEP, *GRID, "-o", path)
    assert (ended.status, ended.out, ended.err) == (0, "", "")
    found = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    wanted = cm.sweep(
        [cm.LSTM(), cm.GRU()],
        ["nvidia/h200-sxm", "amd/mi300x"],
        rung="bound",
        seq=cm.log2_range(128, 1024),
        batch=8,
        hidden=256,
    )
    assert list(found) == list(wanted)
    assert len(found) == 2 * 2 * 4
    assert np.array_equal(found["seconds"], wanted["seconds"])
    assert list(found["device"]) == list(wanted["device"])


def test_sweep_takes_several_devices_after_one_m_and_prints_csv(costmodel):
    several = ("sweep", "lstm", "gru", "-m", "h200-sxm", "amd/mi300x", "--rung", "bound")
    assert costmodel(*several, *GRID).out == costmodel(*SWEEP, *GRID).out
    rows = json.loads(costmodel(*several, *GRID, "--json").out)
    assert len(rows) == 16
    assert rows[0]["seconds"] > 0


def test_sweep_of_models_takes_a_use_and_either_name_of_the_length(costmodel):
    """Decoding of Llama and Mamba, whose state has no length, on two devices; beside Python's."""
    words = ("sweep", "llama-3-8b", "mamba-2.8b", "--use", "decode", "-m", "h200-sxm", "a100-sxm-80gb")
    words += ("--rung", "bound", "-D", "batch=1,64", "seq=2048", "--set", "weights=int8", "--json")
    rows = json.loads(costmodel(*words).out)
    assert len(rows) == 2 * 2 * 2
    (row,) = (
        r for r in rows if "llama" in r["layer"] and r["batch"] == 64 and r["device"] == "nvidia/h200-sxm"
    )
    model = cm.models.load("llama-3-8b").storing("int8").decode("bf16")
    wanted = cm.predict(model, "h200-sxm", rung="bound", batch=64, seq_kv=2048)
    assert row["seconds"] == pytest.approx(wanted.seconds)
    refused = costmodel("sweep", "lstm", "--use", "decode", "-m", "h200-sxm", "-D", "batch=1")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    without = costmodel("sweep", "llama-3-8b", "-m", "h200-sxm", "-D", "batch=1")
    assert without.status == 2
    assert "`sweep` with --use" in without.err


def test_sweep_takes_several_numbers_of_devices_that_share_a_model(costmodel):
    words = ("sweep", "llama-3.1-8b", "--use", "decode", "-m", "h200-sxm", "-D", "batch=1", "seq=2048")
    ended = costmodel(*words, "--tensor", "1,2,2,8", "--columns", "tensor,seconds")
    header, *rows = ended.out.splitlines()
    assert (ended.status, header) == (0, "tensor,seconds")
    assert [row.split(",")[0] for row in rows] == ["1", "2", "8"]
    told = json.loads(costmodel("model", "llama-3.1-8b", *words[2:], "--tensor", "8", "--json").out)
    assert float(rows[2].split(",")[1]) == pytest.approx(told["seconds"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("llama-3.1-8b", "--use", "decode", "--tensor", "0"),
            "wanted numbers of devices, such as 1,2,4,8, got '0'",
        ),
        (("llama-3.1-8b", "--use", "decode", "--tensor", "two"), "got 'two'"),
        (("llama-3.1-8b", "--use", "decode", "--tensor", "3"), "do not divide evenly among 3 devices"),
        (("llama-3.1-8b", "--use", "training", "--tensor", "2"), "use `costmodel plan`"),
        (("matmul", "--tensor", "2"), "--tensor applies to models, with --use prefill or decode"),
    ],
)
def test_sweep_refuses_numbers_of_devices_that_no_model_is_shared_by(costmodel, words, says):
    refused = costmodel("sweep", *words, "-m", "h200-sxm", "-D", "batch=1", "seq=8")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert says in refused.err


def test_sweep_has_each_layer_device_and_size_once(costmodel):
    words = ("sweep", "lstm", "lstm[bf16]", "-m", "h200-sxm", "h200", "--rung", "bound")
    table = costmodel(*words, "-D", "batch=1,1", "seq=8", "hidden=8", "--columns", "layer,device,batch").out
    assert table == "layer,device,batch\nlstm,nvidia/h200-sxm,1\n"


@pytest.mark.parametrize("name", ["rows.parquet", "folder", "rows.csv"])
def test_a_sweep_to_a_file_says_how_many_rows_do_not_fit(costmodel, tmp_path, name):
    """141 GB of weights in bf16 fit into a B200, and into no H100 at any batch."""
    words = ("sweep", "llama-3.1-70b", "--use", "decode", "--rung", "bound", "-D", "batch=1,2", "seq=64")
    fitting = costmodel(*words, "-m", "b200-sxm", "-o", tmp_path / name)
    assert (fitting.status, fitting.err) == (0, "")
    both = costmodel(*words, "-m", "h100-sxm", "b200-sxm", "-o", tmp_path / f"both-{name}")
    assert both.err == "costmodel: 2 of 4 rows do not fit their device's memory: see column footprint_bytes\n"


def test_sweep_says_how_many_rows_do_not_fit(costmodel):
    """141 GB of weights in bf16 fit into a B200, and with one sequence into no H100."""
    words = ("sweep", "llama-3.1-70b", "--use", "decode", "-m", "h100-sxm", "b200-sxm", "--rung", "bound")
    words += ("-D", "batch=1", "seq=64", "--columns", "device,seconds")
    said = "costmodel: 1 of 2 rows do not fit their device's memory: see column footprint_bytes\n"
    assert costmodel(*words).err == said
    assert costmodel(*words, "--best", "seconds").err == ""
    assert costmodel(*words, "--best=-seconds").err == said.replace("1 of 2 rows do", "1 of 1 rows do")


def test_explain_says_below_its_table_what_is_not_comparable(costmodel):
    """A line of it must not be longer than the names of constants make it."""
    words = ("explain", "llama-3.1-8b", "--use", "decode", "-m", "l40s", "-D", "batch=16", "seq=2048")
    lines = costmodel(*words).out.splitlines()
    (row,) = (line for line in lines if line.startswith("in fp8"))
    assert row.endswith("; not comparable")
    assert lines[-2].startswith("not comparable: those constants are of another number format")


def test_the_best_rows_are_in_the_order_of_their_groups(costmodel):
    """An LSTM needs less energy than attention from some length on, and is first in the grid."""
    words = ("sweep", "lstm", "tiled-attention", "-m", "h200-sxm", "a100-sxm-80gb", "--rung", "bound", "-D")
    words += ("seq=64,1024,262144", "batch=1", "hidden=512", "heads=8", "head_dim=64", "--best", "energy_j")
    rows = json.loads(costmodel(*words, "--by", "seq", "--json").out)
    assert [row["seq"] for row in rows] == [64, 1024, 262144]
    assert rows[0]["layer"] == "tiled-attention"
    assert rows[-1]["layer"] == "lstm"
    both = json.loads(costmodel(*words, "--by", "device,seq", "--json").out)
    assert [row["device"] for row in both] == 3 * ["nvidia/h200-sxm"] + 3 * ["nvidia/a100-sxm-80gb"]


def test_sweep_has_only_the_requested_columns(costmodel, tmp_path):
    words = ("sweep", "lstm", "-m", "h200-sxm", "--rung", "bound", "-D", "seq=64,128", "batch=1", "hidden=64")
    columns = ("--columns", "seq,layer,seconds")
    printed = pd.read_csv(io.StringIO(costmodel(*words, *columns).out))
    assert list(printed) == ["seq", "layer", "seconds"]
    assert costmodel(*words, *columns, "-o", tmp_path / "few.csv").status == 0
    assert pd.read_csv(tmp_path / "few.csv").equals(printed)
    best = costmodel(*words, *columns, "--best", "seconds").out
    assert best.splitlines() == costmodel(*words, *columns).out.splitlines()[:2]
    assert "'seconds'" in costmodel(*words, "--columns", "second").err


def test_crossover_answers_a_size_never_or_always(costmodel):
    sizes = ("-D", "batch=1", "hidden=512", "heads=8", "head_dim=64")
    answer = json.loads(
        costmodel(
            "crossover", "lstm", "tiled-attention", "--over", "seq", "--of", "flops", *sizes, "--json"
        ).out
    )
    # 2·4·(I+H)·H·n against 4·n²·d with d = H = 512: equal at n = 16·H²/(4·H) = 4·H.
    assert answer["size"] == 4 * 512
    assert answer["cheaper"] == ["tiled-attention", "lstm"]
    depth = costmodel(
        "crossover", "lstm", "tiled-attention", "--over", "seq", "--of", "depth", *sizes, "--json"
    )
    assert json.loads(depth.out)["cheaper"][-1] == "tiled-attention"
    timed = costmodel(
        "crossover", "lstm", "tiled-attention", "-m", "h200-sxm", "--rung", "bound", "--over", "seq", *sizes
    )
    assert "rung bound, constants from none" in timed.out


def test_layers_may_have_options_in_brackets(costmodel):
    layers = ("lstm[bias=false]", "lstm[fp16,bidirectional=true]")
    counted = ("--over", "seq", "--of", "flops", "-D", "batch=1", "hidden=8", "--json")
    answer = json.loads(costmodel("crossover", *layers, *counted).out)
    assert answer["answer"] == "always"
    assert answer["second"] == "lstm[fp16,bidirectional=true]"


def test_check_lists_every_fault_with_its_line(costmodel, tmp_path):
    sound = cm.hardware.loader.FOLDER / "nvidia" / "t4.yaml"
    assert costmodel("check", sound).status == 0
    broken = tmp_path / "t4.yaml"
    text = sound.read_text(encoding="utf-8")
    lines = text.replace("vendor:", "vendr:").replace("GB/s", "")
    broken.write_text(lines, encoding="utf-8")
    ended = costmodel("check", broken)
    assert ended.status == 2
    assert "did you mean 'vendor'?" in ended.out
    assert "without a unit" in ended.out
    assert ended.err.count("\n") == 1
    answer = json.loads(costmodel("check", broken, "--json").out)
    wanted = next(i for i, line in enumerate(lines.splitlines(), 1) if line.startswith("vendr:"))
    assert wanted in [fault["line"] for fault in answer["faults"]]


def test_score_adds_predictions_and_prints_their_errors(costmodel, tmp_path):
    table, out = tmp_path / "measured.csv", tmp_path / "scored.csv"
    pd.DataFrame(
        {
            "gpu": ["h200-sxm", "h200-sxm", "no-such-gpu"],
            "op": "gemm", "dtype": "bf16", "m": [4096, -1, 64], "n": 4096, "k": 4096,
            "latency_s": [2e-4, 1e-4, 1e-4],
        }
    ).to_csv(table, index=False)  # fmt: skip
    ended = costmodel("score", table, "-o", out, "--rung", "bound")
    assert ended.status == 0
    scored = pd.read_csv(out)
    assert len(scored) == 3
    assert scored["seconds"][0] == pytest.approx(2 * 4096**3 / 989.4e12)
    assert list(scored["reason"].isna()) == [True, False, False]
    assert "1 of 3 rows not predicted: unknown device 'no-such-gpu'" in ended.err
    assert "h200-sxm" in ended.out
    rows = json.loads(costmodel("score", table, "-o", out, "--rung", "bound", "--force", "--json").out)
    assert sum(row["rows"] for row in rows) == 3


def test_score_says_how_many_rows_have_no_latency_to_compare_with(costmodel, tmp_path):
    table = tmp_path / "measured.csv"
    rows = "".join(f"h200-sxm,gemm,bf16,64,64,64,{latency}\n" for latency in ("", "-1", "0", "1e-5"))
    table.write_text(f"gpu,op,dtype,m,n,k,latency_s\n{rows}", encoding="utf-8")
    ended = costmodel("score", table, "-o", tmp_path / "scored.csv")
    assert ended.status == 0
    assert ended.err == "costmodel: 3 of 4 rows have no latency_s above 0: not in the errors\n"


def test_score_says_which_columns_it_renamed(costmodel, tmp_path):
    table, out = tmp_path / "measured.csv", tmp_path / "scored.csv"
    table.write_text(
        "gpu,op,dtype,m,n,reason,seconds\nh200-sxm,softmax,bf16,64,64,slow,7\n", encoding="utf-8"
    )
    ended = costmodel("score", table, "-o", out)
    assert ended.status == 0
    assert ended.err.splitlines() == [
        "costmodel: the table's own seconds, reason: kept as seconds_given, reason_given",
        "costmodel: no errors: they need latency_s, in seconds; the table has seconds",
    ]
    header, row = out.read_text(encoding="utf-8").splitlines()
    assert header.startswith("gpu,op,dtype,m,n,reason_given,seconds_given,seconds,")
    assert row.startswith("h200-sxm,softmax,bf16,64,64,slow,7,")


@pytest.mark.parametrize("asked", [(), ("--json",)])
def test_score_says_which_latency_it_does_not_read(costmodel, tmp_path, asked):
    """A table in microseconds gives no errors, and must not pass for one without measurements."""
    table, out = tmp_path / "measured.csv", tmp_path / "scored.csv"
    table.write_text("gpu,op,dtype,m,n,latency_us\nh200-sxm,softmax,bf16,64,64,7\n", encoding="utf-8")
    ended = costmodel("score", table, "-o", out, *asked)
    assert (ended.status, ended.out) == (0, "[]\n" if asked else "")
    assert ended.err == "costmodel: no errors: they need latency_s, in seconds; the table has latency_us\n"


@pytest.mark.parametrize(("unit", "factor"), [("ms", 1e3), ("µs", 1e6), (None, 1), (None, 0.4), (None, 30)])
def test_score_says_if_times_are_as_if_they_were_not_in_seconds(costmodel, tmp_path, unit, factor):
    seconds = cm.predict(cm.Softmax(), "h200-sxm", m=4096, n=4096).seconds
    table = tmp_path / "measured.csv"
    row = f"h200-sxm,softmax,bf16,4096,4096,{seconds * factor}\n"
    table.write_text(f"gpu,op,dtype,m,n,latency_s\n{3 * row}", encoding="utf-8")
    said = f"costmodel: latency_s is in seconds, but most values look like {unit}: convert them if so\n"
    assert costmodel("score", table, "-o", tmp_path / "out.csv").err == (said if unit else "")


def test_score_says_the_op_that_is_meant_by_a_layers_name(costmodel, tmp_path):
    table = tmp_path / "measured.csv"
    table.write_text("gpu,op,dtype,m,n,k,time\nh200-sxm,matmul,bf16,8,8,8,7\n", encoding="utf-8")
    ended = costmodel("score", table, "-o", tmp_path / "out.csv")
    assert ended.err.splitlines() == [
        "costmodel: 1 of 1 rows not predicted: unknown op 'matmul'; did you mean 'gemm'?",
        "costmodel: no errors: they need latency_s, in seconds; the table has time",
    ]


def test_version_is_that_of_the_package(costmodel):
    assert costmodel("--version").out == f"costmodel {cm.__version__}\n"


MADE = {
    "predict": ("predict", *FLASH, "seq=64"),
    "crossover": ("crossover", "lstm", *FLASH, "hidden=64", "--over", "seq"),
    "explain": ("explain", *FLASH, "seq=64"),
    "model": ("model", "gpt2", "-m", "h200-sxm", "-D", "seq=64"),
    "generation": ("model", "gpt2", "-m", "h200-sxm", "-D", "batch=1", "seq=64", "--use", "generation"),
}


@pytest.mark.parametrize("what", MADE)
def test_every_answer_states_version_and_spec_hash(costmodel, what):
    h200 = cm.hardware.load("h200-sxm")
    answer = json.loads(costmodel(*MADE[what], "--json").out)
    assert answer["schema"] >= 1
    assert (answer["version"], answer["spec_hash"]) == (cm.__version__, h200.spec_hash)
    assert costmodel(*MADE[what]).out.endswith(f"\ncostmodel {cm.__version__}, spec {h200.spec_hash}\n")


PLAN = ("plan", "gpt2", "-m", "h200-sxm", "--devices", "8", "-D", "batch=64", "seq=512", "--rung", "bound")


def test_plan_states_time_and_cost_of_a_whole_training(costmodel):
    """Tokens over tokens per second; devices and their price are per hour."""
    (best, *_) = json.loads(costmodel(*PLAN, "--tokens", "1e12", "--json").out)
    days = 1e12 / (64 * 512 / best["seconds"]) / 86400
    assert best["training_days"] == pytest.approx(days)
    said = costmodel(*PLAN, "--tokens", "1e12", "--price", "2").out
    assert (
        f"take {days:,.1f} days, {days * 24 * 8:,.0f} device hours, a cost of {days * 24 * 8 * 2:,.0f}"
        in said
    )


@pytest.mark.parametrize(
    ("device", "rung", "said"),
    [
        ("h200-sxm", "bound", ("bound", "none")),
        ("a100-sxm-80gb", None, ("calibrated", "self")),
        ("h100-sxm", None, ("kernel", "nvidia/a100-sxm-80gb, nvidia/h200-sxm")),
    ],
)
def test_plan_states_rung_constants_version_and_spec_hash(costmodel, device, rung, said):
    words = ["plan", "gpt2", "-m", device, "--devices", "8", "-D", "batch=8", "seq=128"]
    words += ["--rung", rung] if rung else []
    made = f"costmodel {cm.__version__}, spec {cm.hardware.load(device).spec_hash}"
    assert costmodel(*words).out.endswith(f"\nrung {said[0]}, constants from {said[1]}\n{made}\n")
    assert {(row["rung"], row["constants_from"]) for row in json.loads(costmodel(*words, "--json").out)} == {
        said
    }


def test_plan_states_shared_settings_once_above_its_table(costmodel):
    """The table has columns only for what differs."""
    rows = json.loads(costmodel(*PLAN, "--json").out)
    lines = costmodel(*PLAN).out.splitlines()
    headers = next(line for line in lines if line.startswith("tensor"))
    for name in ("micro_batch", "interleave", "sequence_parallel", "recompute", "zero"):
        alike = len({row[name] for row in rows}) == 1
        assert (name.replace("_", " ") in lines[1]) == alike
        assert (name.replace("_", " ") in headers) != alike
    assert lines[1].startswith("all with ")
    assert not re.search(r"True|False|e\+", "".join(lines))
    # A single layout has nothing to share.
    assert costmodel(*PLAN, "--top", "1").out.splitlines()[1].startswith("tensor")


def test_plan_in_fp8_says_what_is(costmodel):
    assert "MFU" in costmodel(*PLAN).out
    assert "in 16 bits" not in costmodel(*PLAN).out
    assert (
        "products with weights are counted in fp8, all else in 16 bits"
        in costmodel(*PLAN, "--dtype", "fp8").out
    )


def test_predict_states_the_rate_over_links(costmodel):
    words = ("predict", "collective", "-m", "a100-sxm-80gb", "-D", "m=4096", "n=4096", "devices=8")
    answer = json.loads(costmodel(*words, "--json").out)
    rate = answer["link_bytes"] / answer["seconds"] / 1e9
    assert f"reaches      {rate:.4g} GB/s over links; " in costmodel(*words).out


def test_show_has_braces_only_in_latex(costmodel):
    assert "kv_heads (h_kv)" in costmodel("show", "tiled-attention").out
    assert "kv_heads (h_{kv})" in costmodel("show", "tiled-attention", "--latex").out


def test_collective_on_one_device_takes_no_time(costmodel):
    ended = costmodel("predict", "collective", "-m", "h200-sxm", "-D", "m=8", "n=8", "devices=1")
    assert (ended.status, ended.err) == (0, "")
    assert "time         0 s" in ended.out
    assert "reaches" not in ended.out


def test_explain_states_how_many_devices_share_a_model(costmodel):
    sizes = ("-D", "batch=1", "seq_kv=64")
    words = ("explain", "gpt2", "--use", "decode", "-m", "h200-sxm", *sizes, "--tensor", "2")
    assert "decode[bf16] on each of 2 × nvidia/h200-sxm in one node: " in costmodel(*words).out
    assert json.loads(costmodel(*words, "--json").out)["tensor"] == 2
