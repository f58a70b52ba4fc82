"""`costmodel plan` for models of the catalogue, on clusters with and without enough memory."""

import json
import re

import pandas as pd
import pytest

from costmodel.cli import run
from costmodel.evaluate import evaluate
from costmodel.models import load
from costmodel.parallel import Transformer

MODEL = ["plan", "llama-2-7b", "-m", "a100-sxm-80gb", "--devices", "8", "-D", "batch=64", "seq=4096"]


def test_the_fastest_layouts_are_printed_and_all_are_written(tmp_path, capsys):
    file = tmp_path / "layouts.csv"
    assert run([*MODEL, "--top", "3", "--json", "-o", str(file)]) == 0
    shown = json.loads(capsys.readouterr().out)
    written = pd.read_csv(file)
    assert len(shown) == 3 < len(written)
    assert shown[0]["seconds"] == pytest.approx(written["seconds"].min())
    assert (written["tensor"] * written["pipeline"] * written["data"] == 8).all()


def test_plans_of_mixtures_spread_experts_and_show_the_column(capsys):
    words = ["plan", "mixtral-8x7b", "-m", "h200-sxm", "--devices", "16", "-D", "batch=64", "seq=4096"]
    assert run([*words, "--top", "5", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert any(row["expert"] > 1 for row in shown)
    assert run([*words, "--top", "1"]) == 0
    assert "expert" in capsys.readouterr().out.splitlines()[1]
    assert run([*MODEL, "--top", "1"]) == 0
    assert "expert" not in capsys.readouterr().out.splitlines()[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "gnmt", *MODEL[2:]], "it is not known how devices share its layers"),
        ([*MODEL, "seq_kv=128"], "seq_kv is an encoder's length"),
        (["plan", "mixtral-8x7b", *MODEL[2:]], "expert 8, recompute full"),
        (["plan", "llama-3-70b", *MODEL[2:]], "nothing fits"),
        (["plan", "lama-2-7b", *MODEL[2:]], "llama-2-7b"),
        ([*MODEL[:-1], "seq=1,2"], "one value each"),
        ([*MODEL[:5], "12", *MODEL[6:]], "do not fill nodes"),
    ],
)
def test_impossible_plans_are_refused_in_one_line(words, message, capsys):
    assert run(words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_seq_kv_sets_the_encoders_length_and_price_adds_a_cost(capsys):
    words = ["plan", "t5-base", *MODEL[2:-1], "seq=128", "--top", "1", "--json"]
    steps = []
    for more in ([], ["seq_kv=128"], ["seq_kv=512"]):
        assert run([*words, *(["-D", *more] if more else [])]) == 0
        steps.append(json.loads(capsys.readouterr().out)[0]["seconds"])
    assert steps[0] == steps[1] < steps[2]
    assert run([*words[:-1], "--price", "3"]) == 0
    assert re.search(r"takes [\d.]+ J at rated power and a cost of [\d.e-]+", capsys.readouterr().out)


@pytest.mark.parametrize("name", ["llama-2-7b", "qwen2-7b", "gemma-7b", "gpt2-xl", "opt-13b"])
def test_a_transformer_stack_has_nearly_all_parameters_of_its_model(name):
    """It leaves out biases, position tables and the last norm: less than half a per cent."""
    model = load(name)
    stack = Transformer.of(model)
    sizes = {**stack.sizes, "batch": 1, "seq": 1, "devices": 1}
    one = evaluate(stack.layer("fwd"), **sizes)["parameters"]
    tables = stack.vocab * stack.d_model * (1 if stack.tied else 2)
    assert one * stack.num_layers + tables == pytest.approx(model.parameters, rel=0.005)
