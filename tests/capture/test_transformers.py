"""Capturing models of Hugging Face transformers, built from a config without weights."""

import dataclasses

import pytest

import costmodel as cm
from costmodel.capture import from_torch
from costmodel.symbols import symbol

torch = pytest.importorskip("torch", reason="from_torch needs torch")
transformers = pytest.importorskip("transformers", reason="needs transformers, which is no extra of ours")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

# Warnings of the library while it builds a model are not ours.
pytestmark = pytest.mark.filterwarnings("ignore")

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 96, "max_position_embeddings": 128,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96, "n_positions": 128}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 96}
OPT = {
    "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96,
    "max_position_embeddings": 128, "word_embed_proj_dim": 32,
}  # fmt: skip
MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 96}
GROUPED = {**SIZES, "num_key_value_heads": 2}

#: (class, config class, sizes, further arguments of the model, the length if its code fixes it)
MODELS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED, {}, None),
    "llama, eager attention": (
        "LlamaForCausalLM", "LlamaConfig", {**GROUPED, "attn_implementation": "eager"}, {}, None,
    ),
    "gpt-2": ("GPT2LMHeadModel", "GPT2Config", GPT2, {}, None),
    "bert": ("BertModel", "BertConfig", SIZES, {"add_pooling_layer": False}, None),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GROUPED, {}, None),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**GROUPED, "head_dim": 8}, {}, None),
    "t5 encoder": ("T5EncoderModel", "T5Config", T5, {}, None),
    "opt": ("OPTForCausalLM", "OPTConfig", OPT, {}, None),
    "mamba": ("MambaForCausalLM", "MambaConfig", MAMBA, {}, 16),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_flops_and_parameters_of_captured_models_equal_torchs(name):
    kind, config, sizes, more, fixed = MODELS[name]
    settings = getattr(transformers, config)(**sizes, use_cache=False)
    module = getattr(transformers, kind)(settings, **more).eval()
    dims = {"batch": (0, 0), "seq": (0, 1)}
    model = from_torch(module, torch.zeros(2, 16, dtype=torch.long), dims=dims, direction="fwd+bwd")
    assert model.unmapped == ()
    assert model.cost.parameters == sum(p.numel() for p in module.parameters())
    assert any("seq was taken to be" in line for line in model.assumed) is (fixed is not None)
    for batch, seq in ((2, 16), (3, fixed or 24)):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            result = module(torch.zeros(batch, seq, dtype=torch.long))[0]
            forward = counter.get_total_flops()
            result.backward(torch.empty_like(result))
        at = {symbol("batch"): batch, symbol("seq"): seq}
        for direction, wanted in (("fwd", forward), ("fwd+bwd", counter.get_total_flops())):
            variant = dataclasses.replace(model, convention="torch", direction=direction)
            assert int(variant.product_flops.xreplace(at)) == wanted


#: (class, config class, sizes)
DECODERS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "mistral": ("MistralForCausalLM", "MistralConfig", GROUPED),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**GROUPED, "head_dim": 8}),
    "gpt-2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "opt": ("OPTForCausalLM", "OPTConfig", OPT),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_captured_model_counts_like_the_model_read_from_its_config(name):
    """The two share no counting: one sees the operations that run, the other only the configuration."""
    kind, config, sizes = DECODERS[name]
    settings = getattr(transformers, config)(**sizes, use_cache=False, architectures=[kind])
    module = getattr(transformers, kind)(settings).eval()
    dims = {"batch": (0, 0), "seq": (0, 1)}
    given = torch.zeros(2, 16, dtype=torch.long)
    run = from_torch(module, given, dims=dims, direction="fwd+bwd", fusion="flash")
    told = cm.models.from_config(settings.to_dict())
    for batch, seq in ((2, 16), (3, 40)):
        at = {"batch": batch, "seq": seq, "sram": 49152}
        training = cm.evaluate(told.training(), **at)
        assert cm.evaluate(run, **at)["matrix_flops"] == training["matrix_flops"]
        assert int(run.cost.parameters) == training["parameters"]
        # Prefill computes the logits of the last position only, the module those of all.
        others = 2 * batch * (seq - 1) * 32 * 96
        forward = cm.evaluate(dataclasses.replace(run, direction="fwd"), **at)["matrix_flops"]
        assert forward - others == cm.evaluate(told.prefill(), **at)["matrix_flops"]


def test_a_captured_decoder_runs_causal_attention_without_a_mask():
    """As in real runs: sequences are not packed, so the attention kernel is told to be causal."""
    settings = transformers.LlamaConfig(**GROUPED, use_cache=False)
    module = transformers.LlamaForCausalLM(settings).eval()
    dims = {"batch": (0, 0), "seq": (0, 1)}
    given = torch.zeros(2, 16, dtype=torch.long)
    model = from_torch(module, given, dims=dims, fusion="flash")
    (core,) = [phase for phase in model.forward() if phase.kernel == "attention"]
    assert core.options["causal"]
    assert any("condition that depends on data was taken to be True" in line for line in model.assumed)
