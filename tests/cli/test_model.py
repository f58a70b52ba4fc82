"""``costmodel model``: a model of the catalogue or of a file, with and without a device."""

import json
import re

import pytest
import yaml

import costmodel as cm
from costmodel.hardware.loader import FOLDER
from costmodel.models.config import CATALOGUE
from costmodel.units import render


@pytest.fixture
def config(tmp_path, llama):
    """Return the path of a small configuration."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(llama), encoding="utf-8")
    return path


def test_a_sweep_takes_configurations_wherever_they_are(costmodel, config):
    """A path has a slash, as have the names of devices: google/tpu-v5e."""
    folder = config.parent / "folder"
    folder.mkdir()
    (folder / "config.json").write_bytes(config.read_bytes())
    asked = (
        "--use",
        "decode",
        "-m",
        "nvidia/l4",
        "-D",
        "seq=8",
        "--columns",
        "layer,device,seconds",
        "--json",
    )
    alone = json.loads(costmodel("sweep", config, *asked).out)
    assert [row["device"] for row in alone] == ["nvidia/l4"]
    rows = json.loads(costmodel("sweep", "gpt2", config, folder, "google/tpu-v5e", *asked).out)
    assert len(rows) == 6
    assert {row["seconds"] for row in rows if row["device"] == "nvidia/l4"} > {alone[0]["seconds"]}


def test_a_sweep_takes_models_and_devices_in_yaml_by_what_they_hold(costmodel, tmp_path):
    model, device = tmp_path / "model.yaml", tmp_path / "device.yml"
    model.write_bytes((CATALOGUE / "gpt2.yaml").read_bytes())
    device.write_bytes((FOLDER / "nvidia" / "l4.yaml").read_bytes())
    asked = ("--use", "decode", "-D", "seq=8", "--columns", "device,seconds", "--json")
    mine = json.loads(costmodel("sweep", model, "-m", "t4", device, "--set", "dtype=fp16", *asked).out)
    same = json.loads(costmodel("sweep", "gpt2", "-m", "t4", "l4", "--set", "dtype=fp16", *asked).out)
    assert mine == same
    assert len(mine) == 2


@pytest.mark.parametrize("style", ["quoted keys", "flow"])
def test_a_models_yaml_file_is_recognised_in_any_style(costmodel, tmp_path, style):
    model, text = tmp_path / "model.yaml", (CATALOGUE / "gpt2.yaml").read_text(encoding="utf-8")
    quoted = re.sub(r"^(\w+):", r'"\1":', text, flags=re.MULTILINE)
    model.write_text(quoted if style != "flow" else json.dumps(yaml.safe_load(text)), encoding="utf-8")
    asked = ("-m", "l4", "--use", "decode", "-D", "seq=8", "--columns", "seconds", "--json")
    mine, same = (json.loads(costmodel("sweep", what, *asked).out) for what in (model, "gpt2"))
    assert mine == same


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"model_type": llama, "hidden_size": 64}', "wanted the keys name, sources, figures"),
        ('{"model_type": llama, "hidden_size": [', "not YAML"),
        ("[" * 5000, "line 1: nested deeper than"),
        ("- figures", "wanted a mapping of keys to values"),
        ("a: &b {figures: 1}\nc: *b", "unknown key 'a'"),
        ("\x00figures: 1", "not YAML"),
    ],
)
def test_a_faulty_yaml_file_of_a_model_is_refused_in_one_line(costmodel, tmp_path, text, said):
    file = tmp_path / "model.yaml"
    file.write_text(text, encoding="utf-8")
    ended = costmodel("sweep", file, "-m", "t4", "--use", "decode", "-D", "seq=8")
    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_a_models_file_without_a_use_is_refused_as_a_model(costmodel, tmp_path, config):
    model = tmp_path / "model.yaml"
    model.write_bytes((CATALOGUE / "gpt2.yaml").read_bytes())
    for file in (config, model):
        ended = costmodel("sweep", file, "-m", "l4", "-D", "seq=8")
        assert ended.status == 2
        assert f"{file} is a model, not a layer: use `costmodel model {file}`" in ended.err


def test_catalogue_is_listed(costmodel):
    ended = costmodel("model")
    assert ended.status == 0
    assert "llama-2-7b" in ended.out
    assert "6,738,415,616" in ended.out
    assert "e+" not in ended.out
    rows = json.loads(costmodel("model", "--json").out)
    assert {"model", "title", "parameters", "source"} <= set(rows[0])


def test_model_without_a_device_has_its_parameters_by_part(costmodel, config):
    ended = costmodel("model", config)
    assert ended.status == 0
    assert "tiny: " in ended.out
    assert "bytes in bf16" in ended.out
    answer = json.loads(costmodel("model", config, "--json").out)
    assert sum(answer["parts"].values()) == answer["parameters"]


def test_memory_of_a_model_without_a_device(costmodel):
    """Qwen2.5-72B: 2 x 80 layers x 8 heads x 128 numbers a token, and 72.7e9 weights, of 2 bytes each."""
    words = ["model", "qwen2.5-72b", "-D", "batch=2", "seq=131072"]
    ended = costmodel(*words)
    assert ended.status == 0, ended.err
    assert "weights: 145.4 GB in bf16" in ended.out
    assert "; 85.9 GB at batch=2 seq=131072" in ended.out
    held = json.loads(costmodel(*words, "--json").out)["memory_bytes_by_kind"]
    assert held == {"weights": 2 * 72706203648, "cache": 2 * 2 * 80 * 8 * 128 * 2 * 131072}
    halved = json.loads(costmodel(*words, "--cache", "fp8", "--json").out)["memory_bytes_by_kind"]
    assert halved["cache"] == held["cache"] / 2
    assert "cache" not in json.loads(costmodel("model", "bert-base", "--json").out)["memory_bytes_by_kind"]


def test_memory_is_divided_by_kind(costmodel, config):
    words = ["model", config, "-m", "h200-sxm", "-D", "seq=512", "batch=64", "--use", "decode"]
    answer = json.loads(costmodel(*words, "--json").out)
    kinds = answer["memory_bytes_by_kind"]
    assert sum(kinds.values()) == pytest.approx(answer["footprint_bytes"], rel=1e-2)
    assert kinds["weights"] == 2 * answer["parameters"]
    assert re.search(r"memory +\S+ \w+: weights \S+ \w+, cache \S+ \w+\n", costmodel(*words).out)


def test_an_answer_names_the_optimiser_in_one_spelling(costmodel, config):
    words = ["model", config, "-m", "h200-sxm", "-D", "seq=64", "--use", "training"]
    assert "optimizer" not in costmodel(*words).out
    answer = json.loads(costmodel(*words, "--json").out)
    assert "optimiser" in answer["memory_bytes_by_kind"].keys() & answer["seconds_by_part"].keys()
    assert "optimizer" not in json.dumps(answer)


@pytest.mark.parametrize(("new", "said"), [("1", "1 token after"), ("2", "2 tokens after")])
def test_a_generation_counts_in_the_singular_too(costmodel, config, new, said):
    words = ("-m", "h200-sxm", "-D", "seq=64", "--use", "generation", "--new", new)
    assert f": {said} batch=1 seq=64\n" in costmodel("model", config, *words).out


@pytest.mark.parametrize(("seq", "said"), [("128", ": 2 layouts fit\n"), ("32768", ": 1 layout fits\n")])
def test_a_plan_counts_in_the_singular_too(costmodel, seq, said):
    """With 32,768 tokens, the activations of a step fit only if they are recomputed."""
    words = ("plan", "llama-2-7b", "-m", "h200-sxm", "--devices", "1", "-D", "batch=1", f"seq={seq}")
    assert said in costmodel(*words, "--rung", "bound").out


@pytest.mark.parametrize("model", ["bert-large", "gpt2"])
def test_the_memory_stated_is_the_sum_of_its_kinds(costmodel, model):
    """Of a training, `footprint_bytes` counts part by part, and is up to 3 % apart from a plan's formulas."""
    words = ["model", model, "-m", "h200-sxm", "-D", "seq=512", "batch=8", "--use", "training"]
    answer = json.loads(costmodel(*words, "--json").out)
    kinds = answer["memory_bytes_by_kind"]
    assert answer["memory_bytes"] == sum(kinds.values())
    assert f"  memory       {render(answer['memory_bytes'], 'bytes')}: weights " in costmodel(*words).out


@pytest.mark.parametrize(("price", "said"), [("2", r"[1-9]\.\d\d"), ("200000", r"\d{3},\d{3}")])
def test_large_costs_are_written_without_exponents(costmodel, price, said):
    given = ("-m", "h200-sxm", "--rung", "bound", "--price", price)
    words = ["model", "llama-2-7b", *given, "--use", "decode", "-D", "seq=64"]
    assert re.search(rf"\n  cost         {said} for a million tokens\n", costmodel(*words).out)
    words = ["plan", "gpt2", *given, "--devices", "8", "-D", "batch=65536", "seq=1024"]
    assert re.search(r" and a cost of [\d,.]+\n", costmodel(*words).out)


@pytest.mark.parametrize("use", ["decode", "generation"])
def test_energy_and_cost_of_a_token_are_those_of_all_devices(costmodel, config, use):
    words = ["model", config, "-m", "h200-sxm", "-D", "seq=64", "--use", use, "--tensor", "2"]
    answer = json.loads(costmodel(*words, "--price", "3.5", "--json").out)
    rate = answer["tokens_per_second"]
    assert answer["energy_j_per_token"] == pytest.approx(2 * 700 / rate)
    assert answer["cost_per_million_tokens"] == pytest.approx(1e6 / (rate * 3600) * 2 * 3.5)
    said = costmodel(*words, "--price", "3.5").out
    assert "tokens a second, all 2 devices together" in said
    assert "J a token, at rated power" in said
    assert "for a million tokens" in said
    assert "million" not in costmodel(*words).out


@pytest.mark.parametrize("use", ["training", "prefill", "decode"])
def test_times_by_part_and_by_limit_add_up(costmodel, config, use):
    words = ["model", config, "-m", "h200-sxm", "-D", "seq=64", "--use", use, "--rung", "bound"]
    ended = costmodel(*words)
    assert ended.status == 0, ended.err
    assert "limited by" in ended.out
    assert not re.search(r"rate .*e\+", ended.out)
    answer = json.loads(costmodel(*words, "--json").out)
    assert answer["shapes"]["batch"] == 1
    assert answer["tokens_per_second"] == pytest.approx((1 if use == "decode" else 64) / answer["seconds"])
    for key in ("seconds_by_part", "seconds_by_bound"):
        assert sum(answer[key].values()) == pytest.approx(answer["seconds"])


def test_generation_is_the_first_token_and_the_next_ones(costmodel, config):
    words = ["model", config, "-m", "h200-sxm", "-D", "seq=64", "--use", "generation", "--new", "8"]
    ended = costmodel(*words, "--rung", "bound")
    assert ended.status == 0, ended.err
    assert "each next" in ended.out
    answer = json.loads(costmodel(*words, "--rung", "bound", "--json").out)
    assert answer["seconds"] == pytest.approx(answer["first_s"] + 7 * answer["token_s"])
    longer = costmodel(*words[:-1], "100000", "--rung", "bound")
    assert re.search(r"each next .* on average, .* at first, .* at last", longer.out)
    hours = costmodel("model", "llama-3-8b", "-m", "k40", "--dtype", "fp32", *words[4:-1], "100000").out
    assert re.search(r"all +\d\d,\d{3} s, at least \d\d,\d{3} s\n", hours)


def test_generation_names_the_constants_of_its_pass_and_of_its_steps(costmodel):
    """Of an A10, attention over a cache has those of an L40S, which the pass over the prompt does not."""
    words = ["model", "llama-2-7b", "-m", "a10", "-D", "seq=64"]
    whole, first, next_ = (
        json.loads(costmodel(*words, "--json", "--use", *use).out)["constants_from"].split(", ")
        for use in (["generation", "--new", "2"], ["prefill"], ["decode"])
    )
    assert set(next_) - set(first)
    assert whole == sorted({*first, *next_})
    said = costmodel(*words, "--use", "generation", "--new", "2").out
    assert f"\nrung kernel, constants from {', '.join(whole)}\n" in said


def test_generation_says_its_formats_and_divides_its_memory_by_kind(costmodel):
    """Llama 2 7B: 2 x 32 layers x 4096 numbers of 2 bytes, for 8 + 1000 tokens of 200 sequences."""
    words = ["model", "llama-2-7b", "-m", "h200-sxm", "--use", "generation"]
    words += ["-D", "batch=200", "seq=8", "--new", "1000"]
    answer = json.loads(costmodel(*words, "--json").out)
    kinds = answer["memory_bytes_by_kind"]
    assert kinds["weights"] == 2 * 6738415616
    assert kinds["cache"] == 2 * 32 * 4096 * 2 * 1008 * 200
    assert sum(kinds.values()) == answer["memory_bytes"]
    said = costmodel(*words, "--cache", "fp8").out
    assert said.startswith("llama-2-7b generation[bf16], cache in fp8 on nvidia/h200-sxm: 1000 tokens after")
    assert ": weights 13.48 GB, cache 52.85 GB" in said


def test_generation_says_whether_it_fits_the_memory(costmodel):
    """It needs the prompt's pass and the last token's cache, as for `--use prefill` and on the page."""
    words = ["model", "gpt2", "-m", "k40", "--dtype", "fp32", "--rung", "bound", "--use"]
    for batch, fits in ((1, True), (500, False)):
        sizes = ["-D", f"batch={batch}", "seq=1024"]
        prefill = json.loads(costmodel(*words, "prefill", *sizes, "--json").out)
        answer = json.loads(costmodel(*words, "generation", *sizes, "--json").out)
        assert (answer["fits"], prefill["fits"]) == (fits, fits)
        assert answer["memory_bytes"] == pytest.approx(prefill["footprint_bytes"], rel=1e-2)
        said = costmodel(*words, "generation", *sizes).out
        assert ("does not fit" in said) == (not fits)
        assert fits or f"\n  does not fit {answer['lacking']}\n" in said
    # The cache of the last token is more than the prompt's pass holds.
    assert json.loads(costmodel(*words, "prefill", "-D", "batch=200", "seq=8", "--json").out)["fits"]
    longest = costmodel(*words, "generation", "-D", "batch=200", "seq=8", "--new", "1000", "--json").out
    assert not json.loads(longest)["fits"]


def test_json_and_text_agree_on_whether_it_fits(costmodel):
    """Between the usable room and all of the memory, JSON once said that it fits and also what it lacks."""
    words = ["model", "llama-3-8b", "-m", "h100-sxm", "-D", "batch=8", "seq=32768", "--rung", "bound"]
    answer = json.loads(costmodel(*words, "--json").out)
    assert answer["footprint_bytes"] < cm.hardware.load("h100-sxm").hbm_capacity
    assert (answer["fits"], bool(answer["lacking"])) == (False, True)


def test_tensor_parallel_devices_have_equal_shares(costmodel, config):
    words = ["model", config, "-m", "h200-sxm", "-D", "seq=64", "--use", "decode"]
    one, two = (json.loads(costmodel(*words, "--tensor", n, "--json").out) for n in ("1", "2"))
    assert (one["devices"], two["devices"]) == (1, 2)
    assert two["matrix_flops"] == pytest.approx(one["matrix_flops"] / 2)
    assert "on each of 2 × nvidia/h200-sxm in one node" in costmodel(*words, "--tensor", "2").out
    for less in (["model", config, "--tensor", "2"], [*words, "--tensor", "2", "--use", "training"]):
        refused = costmodel(*less)
        assert (refused.status, refused.err.count("\n")) == (2, 1)


def test_parts_that_nobody_measured_are_named(costmodel, config):
    words = ["model", config, "-m", "h200-sxm", "-D", "seq=64", "--use", "decode", "--tensor", "2"]
    assert "no measured constants" not in costmodel(*words).out
    mamba = ["model", "mamba-130m", "-m", "h200-sxm", "-D", "seq=64"]
    assert "\nno measured constants for: selective scan\n" in costmodel(*mamba).out
    assert "no measured constants" not in costmodel(*mamba, "--rung", "bound").out


def test_recomputation_takes_less_memory_and_more_flops(costmodel, config):
    words = ["model", config, "-m", "h200-sxm", "-D", "seq=512", "--use", "training", "--json"]
    kept, again = (json.loads(costmodel(*words, "--recompute", how).out) for how in ("none", "full"))
    assert again["kept_bytes"] < kept["kept_bytes"]
    assert again["matrix_flops"] > kept["matrix_flops"]
    assert kept["lacking"] is None


def test_what_does_not_fit_is_told_with_a_remedy(costmodel):
    """By hand: 54 caches of 2.147 GB fit into 0.92 of 141 GB, less 13.48 GB of weights."""
    words = ["model", "llama-2-7b", "-m", "h200-sxm", "--use", "decode", "-D", "seq=4096", "batch=999"]
    out = costmodel(*words, "--rung", "bound").out
    assert "does not fit" in out
    assert "batch=54 would do" in out


def test_explaining_a_model_without_a_use_is_refused(costmodel):
    ended = costmodel("explain", "llama-2-7b", "-m", "h200-sxm", "-D", "batch=1", "seq_kv=64")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "give --use training, prefill or decode" in ended.err


@pytest.mark.parametrize("command", ["predict", "show"])
def test_model_given_as_a_layer_is_refused_with_the_command_for_models(costmodel, command):
    device = ("-m", "h200-sxm") if command == "predict" else ()
    ended = costmodel(command, "llama-2-7b", *device)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "costmodel model llama-2-7b" in ended.err


def test_explain_takes_the_sizes_that_model_takes(costmodel):
    """One sequence by default, and the cache's length by either name."""
    words = ["explain", "gpt2", "--use", "decode", "-m", "h200-sxm", "--json"]
    said, short = (
        json.loads(costmodel(*words, "-D", *sizes).out) for sizes in (["batch=1", "seq_kv=64"], ["seq=64"])
    )
    assert said["seconds"] == short["seconds"]


def test_explain_takes_options_of_a_model(costmodel):
    """T4 has no bf16, the default format of models: it needs --set dtype to explain any."""
    words = (
        "explain",
        "gpt2",
        "--use",
        "decode",
        "-m",
        "t4",
        "--rung",
        "bound",
        "-D",
        "batch=1",
        "seq_kv=128",
    )
    assert "no bf16 rate" in costmodel(*words).err
    found = json.loads(costmodel(*words, "--set", "dtype=fp16", "--json").out)
    model = cm.models.load("gpt2").decode("fp16")
    assert found["seconds"] == cm.predict(model, "t4", rung="bound", batch=1, seq_kv=128).seconds
    refused = costmodel(*words, "--set", "recompute=full")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "option 'recompute' of gpt2 in decode" in refused.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gpt2", "-m", "h200-sxm", "-D", "seq=8", "--recompute", "full"], "--use training"),
        (["gpt2", "-m", "h200-sxm", "--use", "training", "-D", "seq=8", "--recompute", "all"], "recompute"),
        (["no-such-model"], "unknown model"),
        (["gpt2", "-m", "h200-sxm"], "needs seq"),
        (["gpt2", "-m", "h200-sxm", "-D", "seq=1,2"], "one value of seq"),
        (["gpt2", "-m", "h200-sxm", "--use", "training", "-D", "sequ=1"], "unknown size"),
        (["gpt2", "-m", "h200-sxm", "--use", "traning", "-D", "seq=1"], "training"),
        (["gpt2", "-m", "h200-sxm", "--use", "generation"], "length of the prompt"),
        (["bert-base", "-m", "h200-sxm", "--use", "decode", "-D", "seq=1"], "does not generate"),
        (["gpt2", "-m", "h200-sxm", "-D", "seq=8", "--dtype", "bf17"], "bf16"),
        (["gpt2", "-m", "h200-sxm", "-D", "seq=8", "heads=3"], "heads"),
    ],
)
def test_refusals_are_one_line(costmodel, words, expected):
    ended = costmodel("model", *words)
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert expected in ended.err


def test_narrower_weights_and_cache_move_fewer_bytes(costmodel, config):
    words = ["model", config, "-m", "h200-sxm", "-D", "seq=64", "--use", "decode", "--rung", "bound"]
    plain = json.loads(costmodel(*words, "--json").out)
    stored = json.loads(
        costmodel(*words, "--weights", "int4", "--group", "32", "--cache", "fp8", "--json").out
    )
    assert stored["hbm_bytes"] < 0.6 * plain["hbm_bytes"]
    assert stored["matrix_flops"] == plain["matrix_flops"]
    said = costmodel(*words, "--weights=int4", "--cache=fp8").out
    assert said.startswith("tiny decode[bf16], weights in int4, cache in fp8 on nvidia/h200-sxm\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--use", "training", "--weights", "int4"],
            "--weights and --cache apply to prefill, decode and generation",
        ),
        (["--use", "decode", "--weights", "int5"], "unknown dtype 'int5'"),
        (["--use", "decode", "--weights", "fp32"], "narrower than bf16, got fp32"),
        (["--use", "decode", "--group", "32"], "the weights' format too, such as int4"),
    ],
)
def test_invalid_formats_of_weights_and_cache_are_refused(costmodel, config, words, said):
    ended = costmodel("model", config, "-m", "h200-sxm", "-D", "seq=64", *words)
    assert ended.status == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_explaining_training_with_narrower_weights_is_refused(costmodel):
    ended = costmodel(
        *("explain", "llama-2-7b", "--use", "training", "-m", "h200-sxm"),
        *("-D", "batch=1", "seq=64", "--set", "weights=int4"),
    )
    assert (ended.status, ended.err) == (
        2,
        "costmodel: --set weights applies to --use prefill and decode only\n",
    )


@pytest.mark.parametrize(
    ("words", "named", "got"),
    [
        (("model", "llama-2-7b", "-D", "seq=4097"), "llama-2-7b", "4,097"),
        (("model", "llama-2-7b", "-m", "h200-sxm", "-D", "seq=8192"), "llama-2-7b", "8,192"),
        (
            ("model", "llama-2-7b", "-m", "h200-sxm", "--use", "generation", "--new", "2", "-D", "seq=4095"),
            "llama-2-7b",
            "4,097",
        ),
        (
            ("explain", "llama-2-7b", "--use", "decode", "-m", "h200-sxm", "-D", "batch=1", "seq=5000"),
            "llama-2-7b decode",
            "5,000",
        ),
        (
            ("sweep", "llama-2-7b", "llama-3-8b", "--use", "decode", "-m", "h200-sxm", "-D", "seq=8192,64"),
            "llama-2-7b decode",
            "8,192",
        ),
        (
            ("plan", "llama-2-7b", "-m", "h200-sxm", "--devices", "8", "-D", "batch=8", "seq=8192"),
            "llama-2-7b",
            "8,192",
        ),
    ],
)
def test_a_sequence_longer_than_a_model_is_made_for_is_answered_and_said(costmodel, words, named, got):
    """Llama 2: 4,096 positions (Touvron et al., arXiv 2307.09288, Table 1); Llama 3: 8,192."""
    ended = costmodel(*words)
    assert ended.status == 0
    assert ended.err == (
        f"costmodel: {named}: made for at most 4,096 tokens a sequence, got {got}; "
        "times and memory are those of such a model made for more\n"
    )


DECODE = ("llama-2-7b", "-m", "h100-sxm", "--use", "decode", "-D", "seq=64")
PLAN = (
    "plan",
    "llama-2-7b",
    "-m",
    "h100-sxm",
    "--devices",
    "16",
    "-D",
    "batch=16",
    "seq=64",
    "--rung",
    "bound",
)


@pytest.mark.parametrize(
    "words",
    [
        ("model", *DECODE, "--tensor", "16"),
        ("model", *DECODE[:4], "generation", *DECODE[5:], "--new", "2", "--tensor", "16"),
        ("explain", *DECODE, "--tensor", "16", "--rung", "bound"),
        ("sweep", *DECODE, "--tensor", "8,16"),
        (*PLAN, "--node", "16"),
    ],
)
def test_a_node_of_more_devices_than_links_join_is_answered_and_said(costmodel, words):
    """NVLink of H100 SXM joins 8 devices; all 16 are timed as if it joined them."""
    ended = costmodel(*words)
    assert ended.status == 0
    assert ended.err == (
        "costmodel: nvidia/h100-sxm: its links join 8 devices, got 16 in a node; "
        "times are those of links that join them all at the same bandwidth\n"
    )


@pytest.mark.parametrize(
    ("device", "number", "where"),
    [
        ("h100-sxm", 8, "in one node"),
        ("h100-sxm", 16, "as if they were in one node"),
        ("gb200", 16, "in one node"),
    ],
)
@pytest.mark.parametrize(
    ("command", "use"),
    [("model", ["decode"]), ("explain", ["decode"]), ("model", ["generation", "--new", "2"])],
)
def test_the_headline_claims_a_node_no_wider_than_links_join(costmodel, command, use, device, number, where):
    words = (command, "llama-2-7b", "-m", device, "-D", "seq=64", "--tensor", str(number), "--use", *use)
    headline = costmodel(*words).out.splitlines()[0]
    assert re.search(f" on each of {number} × nvidia/{device} {where}(:|$)", headline)


def test_a_node_as_wide_as_links_join_is_nothing_to_say(costmodel):
    """GB200's join 72."""
    assert costmodel("model", *DECODE, "--tensor", "8").err == ""
    assert costmodel("model", DECODE[0], "-m", "gb200", *DECODE[3:], "--tensor", "16").err == ""
    assert costmodel(*PLAN).err == ""


def test_a_sequence_as_long_as_a_model_is_made_for_is_nothing_to_say(costmodel):
    words = ("model", "llama-2-7b", "-m", "h200-sxm", "--rung", "bound")
    assert costmodel(*words, "-D", "seq=4096").err == ""
    assert costmodel(*words, "--use", "generation", "--new", "6", "-D", "seq=4090").err == ""
    # An encoder's 500 tokens and its decoder's 100 are two sequences of at most 512.
    encoded = ("model", "t5-small", "-m", "h200-sxm", "--use", "generation", "--new", "100")
    assert costmodel(*encoded, "-D", "seq=500").err == ""


@pytest.mark.parametrize("name", ["t5-small", "gpt2"])
def test_a_generation_states_the_sizes_that_were_given(costmodel, name):
    """Whether the prompt's tokens are an encoder's or the model's own."""
    words = ("model", name, "-m", "h200-sxm", "--use", "generation", "--new", "3", "-D", "batch=2", "seq=50")
    assert costmodel(*words).out.startswith(
        f"{name} generation[bf16] on nvidia/h200-sxm: 3 tokens after batch=2 seq=50\n"
    )
    assert json.loads(costmodel(*words, "--json").out)["shapes"] == {"batch": 2, "seq": 50, "new": 3}
