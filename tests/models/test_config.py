"""Reading configurations: what is said of bad ones, and that spellings of one model agree."""

import json

import pytest
import yaml

from costmodel.errors import CostmodelError, UnknownNameError
from costmodel.models import available, from_config, load, title


def refused(config, **options):
    with pytest.raises(CostmodelError) as caught:
        from_config(config, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_title_of_no_model_says_which_there_are():
    with pytest.raises(UnknownNameError, match="unknown model 'llama-2-7'; did you mean"):
        title("llama-2-7")


def test_missing_fields_are_all_named_with_what_is_near(llama):
    config = {key: value for key, value in llama.items() if key != "intermediate_size"}
    text = refused({**config, "hidden_sizes": 64, "hidden_size": None})
    assert "lacks hidden_size (there is 'hidden_sizes'), intermediate_size" in text


def test_an_unknown_architecture_says_which_is_nearest(llama):
    text = refused({**llama, "model_type": "lama"})
    assert "nearest is 'llama'" in text
    assert "whose fields it has" in text


def test_an_unknown_architecture_says_what_the_nearest_would_need():
    text = refused({"model_type": "deepseek_v9", "hidden_size": 64, "vocab_size": 10})
    assert "nearest is 'deepseek_v" in text
    assert "kv_lora_rank" in text


def test_a_name_like_no_other_is_compared_by_its_fields(llama):
    falcon = {key: value for key, value in llama.items() if key != "intermediate_size"}
    text = refused({**falcon, "model_type": "falcon"})
    assert "nearest is 'llama', which also needs intermediate_size" in text
    opt = {**falcon, "ffn_dim": 8, "max_position_embeddings": 8, "word_embed_proj_dim": 64}
    assert "nearest is 'gpt2'" in refused({**opt, "model_type": "xyz"})


def test_of_architectures_with_like_names_the_nearest_lacks_least(llama):
    """The text of Qwen2.5-VL: its name is most like qwen3_next's, which would need experts."""
    assert "nearest is 'qwen2', whose fields it has" in refused({**llama, "model_type": "qwen2_5_vl_text"})


def test_no_architecture_at_all(llama):
    text = refused({key: value for key, value in llama.items() if key != "model_type"})
    assert "no model_type" in text


def test_an_unknown_architecture_can_be_read_as_another(llama):
    model = from_config({**llama, "model_type": "brand_new"}, model_type="llama")
    assert model.parameters == from_config(llama).parameters


@pytest.mark.parametrize("value", ["64", 0, -1, 2.5, True, [64]])
def test_a_field_of_the_wrong_kind(value, llama):
    assert "hidden_size should be a whole number" in refused({**llama, "hidden_size": value})


def test_more_layers_than_can_be_meant(llama):
    assert "num_hidden_layers should be a whole number" in refused({**llama, "num_hidden_layers": 10**12})


def test_heads_that_do_not_divide_the_width(llama):
    assert "multiple" in refused({**llama, "num_attention_heads": 5})


@pytest.mark.parametrize("config", [[], "llama", 7, None])
def test_what_is_no_mapping(config):
    assert "mapping" in refused(config)


def test_files(tmp_path, llama):
    file = tmp_path / "tiny" / "config.json"
    file.parent.mkdir()
    file.write_text(json.dumps(llama), encoding="utf-8")
    from_file, from_folder = load(file), load(file.parent)
    assert from_file.parameters == from_folder.parameters == from_config(llama).parameters
    assert from_file.name == "tiny"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("config.json", "{", "not JSON"),
        ("config.json", "[1]", "mapping"),
        ("model.yaml", "name: [", "not YAML"),
        ("model.yaml", "name: x", "wanted the keys"),
        ("model.yaml", "{name: x, sources: {}, figures: {d: 3}}", "should be"),
        ("model.yaml", "{name: x, sources: {}, figures: {d: {value: 3, source: y}}}", "not listed"),
    ],
)
def test_bad_files(tmp_path, name, text, expected):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CostmodelError, match=expected):
        load(file)


def test_what_is_not_there(tmp_path):
    with pytest.raises(CostmodelError, match="without a config"):
        load(tmp_path)
    with pytest.raises(CostmodelError, match="no such file"):
        load(tmp_path / "config.json")
    with pytest.raises(UnknownNameError, match="llama-2-7b"):
        load("llama-2-7")


def test_a_language_model_inside_another(llama):
    """Multimodal configurations keep it in ``text_config``."""
    outer = {"model_type": "something_with_pictures", "vision_config": {}, "text_config": llama}
    assert from_config(outer).parameters == from_config(llama).parameters


def test_names_of_the_same_thing_agree():
    gpt2 = {"model_type": "gpt2", "vocab_size": 100, "n_positions": 32}
    ours = from_config({**gpt2, "n_embd": 64, "n_layer": 2, "n_head": 4})
    theirs = from_config({**gpt2, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4})
    assert ours.parameters == theirs.parameters


def test_layer_types_decide_which_layers_look_back_on_a_window(llama):
    gemma = {**llama, "model_type": "gemma3_text", "head_dim": 16, "sliding_window": 8}
    listed = {**gemma, "layer_types": ["sliding_attention", "full_attention"]}
    windows = [
        sum(int(p.repeats) for p in from_config(config).prefill().parts if p.layer.name == "sliding-window")
        for config in (gemma, listed)
    ]
    assert windows == [2, 1]
    assert "3 entries for 2 layers" in refused_use({**gemma, "layer_types": ["full_attention"] * 3})


@pytest.mark.parametrize(
    ("kind", "said", "windowed"),
    [
        ("qwen2", {}, 0),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 0}, 2),
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 1}, 1),
        ("qwen2_moe", {"use_sliding_window": True}, 0),
        ("qwen3_moe", {"use_sliding_window": True, "max_window_layers": 2}, 2),
        ("qwen3_moe", {}, 0),
    ],
)
def test_windows_of_qwen_are_those_of_its_code(llama, kind, said, windowed):
    """Layers from max_window_layers (28) on, if use_sliding_window; all of Qwen3's mixtures.

    Hugging Face transformers, configuration_qwen2.py, configuration_qwen3.py, modeling_qwen3_moe.py.
    """
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    config = {**llama, **experts, "model_type": kind, "sliding_window": 4, **said}
    parts = from_config(config).prefill().parts
    assert sum(int(p.repeats) for p in parts if p.layer.name == "sliding-window") == windowed


def test_an_unknown_type_of_layer_is_refused(llama):
    wrong = {**llama, "layer_types": ["full_attention", "chunked_attention"]}
    assert "unknown entry 'chunked_attention' of layer_types" in refused_use(wrong)


def test_what_is_wrong_in_a_file_names_it(tmp_path, llama):
    file = tmp_path / "neg.json"
    for field, value in (("vocab_size", -1), ("model_type", "lama"), ("hidden_size", 65)):
        file.write_text(json.dumps({**llama, field: value}), encoding="utf-8")
        with pytest.raises(CostmodelError) as caught:
            load(file)
        assert str(caught.value).startswith(f"{file}: ")


def refused_use(config):
    """Return what is said when a configuration that can be read is used."""
    with pytest.raises(CostmodelError) as caught:
        from_config(config).prefill()
    return str(caught.value)


def test_the_catalogue_has_titles():
    assert "llama-2-7b" in available()
    assert all(title(name) for name in available())


def entry(tmp_path, **changes):
    """Write a model like the catalogue's, with other parts; a part of None is left out."""
    source = {"key": "a paper"}
    sizes = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100}
    sizes |= {"num_attention_heads": 4, "intermediate_size": 128}
    figures = {name: {"value": value, "source": "key"} for name, value in sizes.items()}
    path = tmp_path / "model.yaml"
    whole = {"name": "mine", "sources": source, "figures": figures, **changes}
    path.write_text(yaml.safe_dump(whole))
    return path


def test_a_file_that_has_changed_is_read_again(tmp_path):
    two = load(entry(tmp_path)).parameters
    more = yaml.safe_load(entry(tmp_path).read_text())["figures"]
    more["num_hidden_layers"]["value"] = 4
    four = load(entry(tmp_path, figures=more)).parameters
    assert four > two


@pytest.mark.parametrize(
    ("part", "value"),
    [("figures", [1]), ("figures", None), ("sources", None), ("sources", ["key"]), ("figures", {"a": 3})],
)
def test_a_part_that_is_no_mapping_is_named(tmp_path, part, value):
    with pytest.raises(CostmodelError, match=part if value != {"a": 3} else "a should be"):
        load(entry(tmp_path, **{part: value}))


def test_a_source_that_is_a_list_is_named(tmp_path):
    with pytest.raises(CostmodelError, match="not listed"):
        load(entry(tmp_path, figures={"hidden_size": {"value": 64, "source": ["key"]}}))


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_what_is_nested_too_deeply_is_refused(tmp_path, suffix):
    path = tmp_path / f"deep.{suffix}"
    path.write_text("[" * 20000 + "]" * 20000)
    with pytest.raises(CostmodelError, match="nested too deeply"):
        load(path)


@pytest.mark.parametrize("name", ["num_key_value_heads", "decoder_sparse_step"])
def test_sizes_that_something_is_divided_by_are_not_zero(name):
    config = {"model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100}
    config |= {"num_attention_heads": 4, "intermediate_size": 128, "num_experts": 4, "num_experts_per_tok": 2}
    assert from_config({**config, name: 1}).parameters > 0
    with pytest.raises(CostmodelError, match=f"{name} should be"):
        from_config({**config, name: 0})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"qk_dim_factor": -1.0}, "qk_dim_factor of 128 should be 1 to"),
        ({"qk_dim_factor": float("inf")}, "qk_dim_factor of 128 should be 1 to"),
        ({"ffn_proj_factor": 1e-9}, "ffn_proj_factor of 128 should be 1 to"),
        ({"num_heads": 3}, "keys 64 is not a multiple of heads 3"),
    ],
)
def test_widths_that_are_none_or_no_heads_are_one_clear_line(said, message):
    """They were sizes below 1 inside of layers, which SymPy refused, or heads cut off."""
    small = {"vocab_size": 100, "hidden_size": 128, "num_hidden_layers": 2, "num_heads": 4}
    assert message in refused({"model_type": "xlstm", **small, **said})


@pytest.mark.parametrize("wrong", [[], 3, None, b"gpt2", ""])
def test_what_names_no_model_is_one_clear_line(wrong):
    with pytest.raises(
        CostmodelError,
        match=r"wanted (a name, a path or a configuration|model to be text, a path .*), got",
    ):
        load(wrong)
