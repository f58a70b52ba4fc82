"""Reading configurations: the errors for bad ones, and that different spellings of one model agree."""

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


def test_the_title_of_an_unknown_model_is_refused_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="unknown model 'llama-2-7'; did you mean"):
        title("llama-2-7")


def test_all_missing_fields_are_named_with_similar_ones(llama):
    config = {key: value for key, value in llama.items() if key != "intermediate_size"}
    text = refused({**config, "hidden_sizes": 64, "hidden_size": None})
    assert "lacks hidden_size (there is 'hidden_sizes'), intermediate_size" in text


def test_an_unknown_architecture_is_refused_with_the_nearest(llama):
    text = refused({**llama, "model_type": "lama"})
    assert "nearest is 'llama'" in text
    assert "whose fields it has" in text


def test_the_error_says_which_fields_the_nearest_architecture_lacks():
    text = refused({"model_type": "deepseek_v9", "hidden_size": 64, "vocab_size": 10})
    assert "nearest is 'deepseek_v" in text
    assert "kv_lora_rank" in text


def test_an_architecture_with_an_unfamiliar_name_is_compared_by_its_fields(llama):
    bare = {key: value for key, value in llama.items() if key != "intermediate_size"}
    text = refused({**bare, "model_type": "xyz", "mlp_bias": False, "sliding_window": 8})
    assert "nearest is 'llama', which also needs intermediate_size" in text
    opt = {**bare, "ffn_dim": 8, "max_position_embeddings": 8, "word_embed_proj_dim": 64}
    assert "nearest is 'gpt2'" in refused({**opt, "model_type": "xyz"})


def test_among_similar_names_the_nearest_architecture_lacks_fewest_fields(llama):
    """Qwen2.5-VL's text model: its name is most like qwen3_next, which would need experts."""
    assert "nearest is 'qwen2', whose fields it has" in refused({**llama, "model_type": "qwen2_5_vl_text"})


def test_a_configuration_without_model_type_is_refused(llama):
    text = refused({key: value for key, value in llama.items() if key != "model_type"})
    assert "no model_type" in text


@pytest.mark.parametrize(
    ("named", "nearest"), [("LlamaForCausalLM", "llama"), ("Qwen2MoeModel", "qwen2_moe")]
)
def test_without_model_type_the_names_of_classes_say_what_it_is(llama, named, nearest):
    """With positions, as all have, a Llama has the fields of BERT too, which generates nothing."""
    config = {**llama, "architectures": [named], "max_position_embeddings": 2048}
    del config["model_type"]
    assert f"nearest is '{nearest}', whose fields it has" in refused(config)


@pytest.mark.parametrize(
    ("more", "context"),
    [
        ({}, None),
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 512}, 512),
        ({"max_seq_len": 2048}, 2048),
        ({"max_position_embeddings": None, "context_length": 1024}, 1024),
        # Qwen2.5's card: "context length up to 131,072" with these, of 32,768 without.
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
            },
            131072,
        ),
        # Llama 3.1's, whose scaled 65,536 are fewer than what it was trained for.
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.0}}, 4096),
    ],
)
def test_the_longest_sequence_is_what_a_configuration_says(llama, more, context):
    model = from_config({**llama, **more})
    assert (model.context, model.decode().context, model.tensor_parallel(2).context) == (context,) * 3


def test_a_longest_sequence_that_is_no_length_is_refused(llama):
    text = refused({**llama, "max_position_embeddings": "4k"})
    assert "max_position_embeddings should be a whole number that can be a size, got '4k'" in text


def test_an_unknown_architecture_can_be_read_as_another(llama):
    model = from_config({**llama, "model_type": "brand_new"}, model_type="llama")
    assert model.parameters == from_config(llama).parameters


@pytest.mark.parametrize("value", ["64", 0, -1, 2.5, True, [64]])
def test_a_size_that_is_no_positive_whole_number_is_refused(value, llama):
    assert "hidden_size should be a whole number" in refused({**llama, "hidden_size": value})


def test_an_absurd_number_of_layers_is_refused(llama):
    assert "num_hidden_layers should be a whole number" in refused({**llama, "num_hidden_layers": 10**12})


def test_heads_that_do_not_divide_the_width_are_refused(llama):
    assert "multiple" in refused({**llama, "num_attention_heads": 5})


@pytest.mark.parametrize("config", [[], "llama", 7, None])
def test_a_configuration_that_is_no_mapping_is_refused(config):
    assert "mapping" in refused(config)


def test_a_file_and_its_folder_load_the_same_model(tmp_path, llama):
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
        ("model.yaml", "# nothing yet\n", "got an empty file"),
        ("model.yaml", "name: x", "wanted the keys"),
        ("model.yaml", "{name: x, sources: {}, figures: {d: 3}}", "should be"),
        ("model.yaml", "{name: x, sources: {}, figures: {d: {value: 3, source: y}}}", "not listed"),
    ],
)
def test_unreadable_and_incomplete_files_are_refused(tmp_path, name, text, expected):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CostmodelError, match=expected):
        load(file)


def test_missing_files_and_unknown_names_are_refused(tmp_path):
    with pytest.raises(CostmodelError, match="without a config"):
        load(tmp_path)
    with pytest.raises(CostmodelError, match="no such file"):
        load(tmp_path / "config.json")
    with pytest.raises(UnknownNameError, match="llama-2-7b"):
        load("llama-2-7")
    with pytest.raises(UnknownNameError, match="from_torch"):
        load("resnet-50")


def test_the_name_of_a_repository_leads_to_its_model():
    with pytest.raises(UnknownNameError, match=r"Qwen is no folder here: .* did you mean 'qwen2.5-7b'"):
        load("Qwen/Qwen2.5-7B-Instruct")


def test_the_text_model_of_a_multimodal_configuration_is_read(llama):
    """Multimodal configurations hold it in ``text_config``."""
    outer = {"model_type": "something_with_pictures", "vision_config": {}, "text_config": llama}
    model = from_config(outer)
    assert model.parameters == from_config(llama).parameters
    assert model.decode().not_counted.endswith("; all beside text_config, such as a vision model")
    assert "beside" not in from_config(llama).left_out


def test_the_outer_model_says_whether_both_ends_share_a_table(llama):
    """transformers ties the classes that it loads; what a language model inside says is not read then."""
    table = llama["vocab_size"] * llama["hidden_size"]
    outer = {"model_type": "something_with_pictures", "text_config": {**llama, "tie_word_embeddings": True}}
    untied = from_config({**outer, "tie_word_embeddings": False}).parameters
    assert untied - from_config(outer).parameters == table


@pytest.mark.parametrize(("seeing", "reading"), [("qwen3_vl", "qwen3"), ("qwen3_vl_moe", "qwen3_moe")])
def test_the_language_model_of_qwen3_vl_is_qwen3(llama, seeing, reading):
    sizes = {**llama, "head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    del sizes["model_type"]
    inner = {**sizes, "model_type": f"{seeing}_text", "num_key_value_heads": 2}
    like = from_config({**inner, "model_type": reading})
    for config in (inner, {"model_type": seeing, "text_config": inner}):
        found = from_config(config)
        assert found.parameters == like.parameters
        assert found.cache_bytes() == like.cache_bytes()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"moe_topk": 5}, "the 512 experts that compute, of 768, have a whole share, got 5"),
        ({"zero_expert_type": "copy"}, "zero_expert_type: wanted identity, got 'copy'"),
    ],
)
def test_experts_of_longcat_that_cannot_be_counted_are_refused(said, message):
    assert message in refused_use({"model_type": "longcat_flash", **said})


@pytest.mark.parametrize(
    "listed",
    [
        {"0": {"num_attention_heads": 8}},
        {"2": {"num_attention_heads": 8}},
        {"2": {"num_attention_heads": 8}, "3": {"num_attention_heads": 4}},
        {"2": {"hidden_size": 8}, "3": {"hidden_size": 8}},
    ],
)
def test_sizes_of_single_layers_that_dots3_note_does_not_have_are_refused(listed):
    config = {"model_type": "dots3_note_text", "num_hidden_layers": 4, "per_layer_config": listed}
    assert "per_layer_config: wanted" in refused_use(config)


@pytest.mark.parametrize(
    ("said", "indexers", "windows"),
    [
        ({}, 3, 5),
        ({"use_dsa": False}, 0, 5),
        ({"use_sliding_window": False}, 8, 0),
        ({"layer_types": ["full_attention"] * 4 + ["sliding_attention"] * 4}, 4, 4),
        ({"layer_types": ["full_attention", "indexed_attention"] * 4, "use_dsa": False}, 0, 0),
    ],
)
def test_kinds_of_layers_of_dots3_note_are_those_of_hugging_faces_class(said, indexers, windows):
    """Dots3NoteTextConfig: ``use_dsa`` also renames the layers that are listed."""
    parts = from_config({"model_type": "dots3_note", "num_hidden_layers": 8, **said}).prefill().parts
    assert sum(p.repeats for p in parts if p.name == "indexer") == indexers
    assert sum(p.repeats for p in parts if p.layer.name == "sliding-window") == windows


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"attention_bias": True}, "attention_bias: wanted false"),
        ({"moe_hidden_size": 8193}, "moe_hidden_size: wanted at most 8192, got 8193"),
    ],
)
def test_what_muse_spark_does_not_have_is_refused(said, message):
    assert message in refused_use({"model_type": "muse_spark_text", **said})


@pytest.mark.parametrize(
    ("said", "windows", "rotations"),
    [
        ({}, 3, 3),
        ({"layer_rope_theta": [500000.0] * 5}, 3, 5),
        ({"layer_types": ["full_attention"] * 4 + ["sliding_attention"]}, 1, 3),
    ],
)
def test_every_fourth_layer_of_muse_spark_sees_all_and_rotates_nothing(said, windows, rotations):
    """Counted from the last (MuseSparkTextConfig), unless the layers are listed."""
    parts = from_config({"model_type": "muse_spark", "num_hidden_layers": 5, **said}).prefill().parts
    assert sum(p.repeats for p in parts if p.layer.name == "sliding-window") == windows
    assert sum(p.repeats for p in parts if p.name == "rotary") == rotations


def test_layers_of_mistral_large_4_that_share_latents_are_refused():
    config = {"model_type": "mistral_large4_text", "num_hidden_layers": 3}
    assert "kv_source_layers: wanted" in refused_use({**config, "kv_source_layers": [0, 0, 2]})
    listed = from_config({**config, "kv_source_layers": [0, 1, 2]})
    assert listed.cache_bytes() == from_config(config).cache_bytes()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"compress_ratios": [0, 4]}, "compress_ratios: wanted 0, 4, 128 for each of 3 layers, got 2"),
        ({"compress_ratios": [0, 4, 8, 128]}, r"for each of 3 layers, got [8]"),
        ({"layer_types": ["full_attention"] * 3}, "unknown entry 'full_attention' of layer_types"),
        ({"mlp_layer_types": ["moe"]}, "mlp_layer_types has 1 entries for 3 layers"),
        (
            {"compress_rates": {"heavily_compressed_attention": 0}},
            "heavily_compressed_attention should be a whole",
        ),
        ({"o_groups": 7}, "o_groups: wanted a divisor of 32768, got 7"),
    ],
)
def test_kinds_of_layers_that_deepseek_v4_does_not_have_are_refused(said, message):
    assert message in refused_use({"model_type": "deepseek_v4", "num_hidden_layers": 3, **said})


def test_the_positions_of_an_entry_have_an_older_name_too():
    """DeepseekV4Config folds ``compress_rate_hca`` into ``compress_rates``."""
    config = {"model_type": "deepseek_v4", "num_hidden_layers": 2}
    old, new = (
        from_config({**config, **said}).cache_bytes()
        for said in ({"compress_rate_hca": 64}, {"compress_rates": {"heavily_compressed_attention": 64}})
    )
    assert old == new != from_config(config).cache_bytes()


def test_ratios_and_types_of_layers_say_the_same_of_deepseek_v4():
    config = {"model_type": "deepseek_v4", "num_hidden_layers": 3}
    listed = ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]
    one, other = (
        from_config({**config, **said})
        for said in ({"layer_types": listed}, {"compress_ratios": [0, 4, 128, 0]})
    )
    assert one.cache_bytes() == other.cache_bytes()
    assert one.parameters == other.parameters


def test_an_attention_without_an_output_gate_has_fewer_queries():
    """vLLM's modelling code of Qwen3.5: ``attn_output_gate`` doubles the product that makes the queries."""
    small = {"model_type": "qwen3_5_text", "hidden_size": 64, "num_hidden_layers": 4, "head_dim": 32}
    gated, plain = (from_config({**small, "attn_output_gate": said}).parameters for said in (True, False))
    assert gated - plain == 64 * 16 * 32


def test_alternative_names_of_fields_give_the_same_model():
    gpt2 = {"model_type": "gpt2", "vocab_size": 100, "n_positions": 32}
    ours = from_config({**gpt2, "n_embd": 64, "n_layer": 2, "n_head": 4})
    theirs = from_config({**gpt2, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4})
    assert ours.parameters == theirs.parameters


def test_layer_types_decide_which_layers_have_a_window(llama):
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
def test_qwen_layers_have_a_window_where_its_code_gives_them_one(llama, kind, said, windowed):
    """With use_sliding_window, the layers from max_window_layers (28) on; in Qwen3's mixtures, all layers.

    Hugging Face transformers, configuration_qwen2.py, configuration_qwen3.py, modeling_qwen3_moe.py.
    """
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    config = {**llama, **experts, "model_type": kind, "sliding_window": 4, **said}
    parts = from_config(config).prefill().parts
    assert sum(int(p.repeats) for p in parts if p.layer.name == "sliding-window") == windowed


def test_an_unknown_type_of_layer_is_refused(llama):
    wrong = {**llama, "layer_types": ["full_attention", "chunked_attention"]}
    assert "unknown entry 'chunked_attention' of layer_types" in refused_use(wrong)


def test_errors_in_a_file_begin_with_its_path(tmp_path, llama):
    file = tmp_path / "neg.json"
    for field, value in (("vocab_size", -1), ("model_type", "lama"), ("hidden_size", 65)):
        file.write_text(json.dumps({**llama, field: value}), encoding="utf-8")
        with pytest.raises(CostmodelError) as caught:
            load(file)
        assert str(caught.value).startswith(f"{file}: ")


def refused_use(config):
    """Return the error when a configuration that can be read is used."""
    with pytest.raises(CostmodelError) as caught:
        from_config(config).prefill()
    return str(caught.value)


def test_every_catalogue_entry_has_a_title():
    assert "llama-2-7b" in available()
    assert all(title(name) for name in available())


def entry(tmp_path, **changes):
    """Write a model file like the catalogue's, with some parts changed, and return its path."""
    source = {"key": "a paper"}
    sizes = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100}
    sizes |= {"num_attention_heads": 4, "intermediate_size": 128}
    figures = {name: {"value": value, "source": "key"} for name, value in sizes.items()}
    path = tmp_path / "model.yaml"
    whole = {"name": "mine", "sources": source, "figures": figures, **changes}
    path.write_text(yaml.safe_dump(whole))
    return path


def test_a_changed_file_is_read_again(tmp_path):
    two = load(entry(tmp_path)).parameters
    more = yaml.safe_load(entry(tmp_path).read_text())["figures"]
    more["num_hidden_layers"]["value"] = 4
    four = load(entry(tmp_path, figures=more)).parameters
    assert four > two


@pytest.mark.parametrize(
    ("part", "value"),
    [("figures", [1]), ("figures", None), ("sources", None), ("sources", ["key"]), ("figures", {"a": 3})],
)
def test_a_part_of_a_file_that_is_no_mapping_is_refused_by_name(tmp_path, part, value):
    with pytest.raises(CostmodelError, match=part if value != {"a": 3} else "a should be"):
        load(entry(tmp_path, **{part: value}))


def test_a_source_that_is_a_list_is_refused(tmp_path):
    with pytest.raises(CostmodelError, match="not listed"):
        load(entry(tmp_path, figures={"hidden_size": {"value": 64, "source": ["key"]}}))


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_deeply_nested_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"deep.{suffix}"
    path.write_text("[" * 20000 + "]" * 20000)
    with pytest.raises(CostmodelError, match="nested too deeply"):
        load(path)


@pytest.mark.parametrize("name", ["num_key_value_heads", "decoder_sparse_step"])
def test_sizes_used_as_divisors_may_not_be_zero(name):
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
def test_xlstm_widths_below_one_or_not_divisible_by_heads_are_refused(said, message):
    """Before, SymPy refused sizes below 1 inside of layers, and heads were cut off."""
    small = {"vocab_size": 100, "hidden_size": 128, "num_hidden_layers": 2, "num_heads": 4}
    assert message in refused({"model_type": "xlstm", **small, **said})


@pytest.mark.parametrize("wrong", [[], 3, None, b"gpt2", ""])
def test_anything_but_a_name_path_or_mapping_is_refused(wrong):
    with pytest.raises(
        CostmodelError,
        match=r"wanted (a name, a path or a configuration|model to be text, a path .*), got",
    ):
        load(wrong)
