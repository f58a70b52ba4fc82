"""Parameters come out as published, and agree with first principles."""

import csv
import re
from pathlib import Path

import pytest

from costmodel.models import available, from_config, load
from costmodel.models.config import CATALOGUE, _yaml
from costmodel.symbols import symbol

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
UNITS = {"M": 10**6, "B": 10**9}


def at(expression, **sizes):
    """Return an expression's value."""
    return expression.subs({symbol(name): size for name, size in sizes.items()})


def table(name):
    with (GOLDEN / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", [name for name in available() if load(name).published is not None])
def test_parameters_are_those_published(name):
    """To the last one where a card gives all digits, else to the digits that are printed."""
    model = load(name)
    if isinstance(model.published, int):
        assert model.parameters == model.published
        return
    digits, unit = re.fullmatch(r"([\d.]+)([MB])", model.published).groups()
    places = len(digits.partition(".")[2])
    assert round(model.parameters / UNITS[unit], places) == float(digits)


@pytest.mark.parametrize("row", table("transformer_table3.csv"), ids=lambda row: row["row"])
def test_every_row_of_the_transformers_table_3(row):
    sizes = {key: int(row[key]) for key in ("num_layers", "d_model", "d_ff", "num_heads", "d_kv")}
    config = {"model_type": "transformer", "vocab_size": int(row["vocab_size"]), **sizes}
    model = from_config({**config, "other_embedding_rows": 4096})
    assert round(model.parameters / 1e6) == int(row["parameters_millions"])


def test_gnmt_has_about_what_others_count_for_it():
    """278M in all, and 214M multiplications a position (Shazeer et al., arXiv 1701.06538, Table 4)."""
    model = load("gnmt")
    assert model.parameters == pytest.approx(278e6, rel=0.015)
    assert model.parameters - 2 * 32000 * 1024 == pytest.approx(214e6, rel=0.015)


def test_active_parameters_of_mixtures():
    """Weights that one token meets: 12.9B of Mixtral, 37B of DeepSeek-V3 (their papers)."""
    for name, active in (("mixtral-8x7b", 12.9e9), ("deepseek-v3", 37e9), ("qwen3-30b-a3b", 3.3e9)):
        decode = load(name).decode()
        weights = at(decode.tensors().weights, batch=1, seq_kv=1) / 2
        embedded = load(name).fields.vocab * load(name).fields.d_model
        # The papers count the table of embeddings, of which a token reads one row.
        assert float(weights) + embedded == pytest.approx(active, rel=0.025)


def test_cache_of_keys_and_values():
    """Bytes a token: 512 KiB (Llama-2-7B), 320 KiB (70B), 1152 a layer (DeepSeek-V2, arXiv 2405.04434)."""
    for name, expected in (
        ("llama-2-7b", 512 * 1024),
        ("llama-2-70b", 320 * 1024),
        ("deepseek-v2", 60 * 1152),
    ):
        cache = load(name).cache_bytes("bf16")
        assert at(cache, batch=1, seq_kv=1) == expected


def test_recurrent_states():
    """Mamba: E·N_s fp32 and (k − 1)·E; RWKV-4: 5 d a layer; neither grows with the text."""
    c = load("mamba-2.8b").fields
    expected = c.layers * (4 * c.inner * c.state + 2 * (c.kernel - 1) * c.inner)
    assert at(load("mamba-2.8b").cache_bytes("bf16"), batch=1) == expected
    assert at(load("rwkv-4-169m").cache_bytes(), batch=1) == 12 * 4 * 5 * 768


def test_a_window_bounds_the_cache():
    cache = load("mistral-7b").cache_bytes()
    short, window, long = (at(cache, batch=1, seq_kv=n) for n in (2048, 4096, 8192))
    assert window == 2 * short
    assert long == window


@pytest.mark.parametrize("name", available())
def test_every_entry_says_where_its_figures_are_from(name):
    entry = _yaml(CATALOGUE / f"{name}.yaml")
    assert entry["name"] == name
    used = {figure["source"] for figure in entry["figures"].values()}
    assert used <= set(entry["sources"])
    assert load(name).origin
