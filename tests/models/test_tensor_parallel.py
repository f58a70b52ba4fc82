"""Models served by several devices: against Megatron's sums, algebra, and gpt-fast's measurements."""

import numpy as np
import pytest
import sympy as sp

import costmodel as cm
from costmodel.errors import SizeError, UnavailableError
from costmodel.models import from_config, load
from costmodel.symbols import symbol

SIZES = {"batch": 4, "seq": 512, "seq_kv": 512}


def uses(architecture):
    return architecture.prefill(), architecture.decode()


def counts(model):
    return cm.evaluate(model, **{name: SIZES[name] for name in model.required})


def exchanges(model):
    return [part for part in model.parts if part.name == "between devices"]


@pytest.mark.parametrize("name", ["llama-2-70b", "gpt2", "mixtral-8x7b", "deepseek-v2-lite"])
def test_each_layer_has_two_all_reduces_and_the_embedding_one(name):
    """Shoeybi et al., arXiv 1909.08053, §3: two all-reduces of B·n·d numbers in a layer's forward pass."""
    whole = load(name)
    layers, width = whole.fields.layers, whole.fields.d_model
    for model, tokens in zip(uses(whole.tensor_parallel(2)), (4 * 512, 4), strict=True):
        (sums,) = (p for p in exchanges(model) if p.layer.collective == "all-reduce")
        sizes = {n: s.xreplace({symbol(k): sp.Integer(v) for k, v in SIZES.items()}) for n, s in sums.sizes}
        assert (sums.repeats, sizes["m"], sizes["n"]) == (2 * layers + 1, tokens, width)


#: All-reduces of a row of the model's width, counted in the modules that vLLM divides by rows.
SUMS = {
    "codestral-mamba-7b": 64,  # a mixer in each layer
    "nemotron-nano-9b-v2": 56,  # mixer, attention or feed-forward layer
    "nemotron-3-nano-30b-a3b": 52,  # or experts with the shared one, whose results are added first
    "bamba-9b": 32 * 2,  # mixer or attention; feed-forward layer
    "granite-4.0-h-small": 40 * 2,
    "falcon-h1-34b": 72 * 3,  # mixer, attention and feed-forward layer
    "zamba-7b": 76 + 13 * 2,
    "zamba2-7b": 81 + 13 * 2,  # a mixer in each layer; attention and feed-forward layer of 13 shared blocks
    "kimi-linear-48b-a3b": 27 * 2,  # delta or latent attention; feed-forward layer or experts
    "ling-3.0-flash": 42 * 2,
    "glm-5.3-flash": 45 * 2,  # the streams are added to after the sum
    "zaya1-8b": 40 * 2,  # attention; experts
    "minimax-text-01": 80 * 2,  # lightning or softmax attention; experts
    "a.x-k1": 61 * 2,  # the experts' norm follows the sum
    "mistral-large-4": 72 * 2,
    "longcat-flash": 28 * 5,  # two attentions and feed-forward layers, and the experts
}


@pytest.mark.parametrize(("name", "sums"), SUMS.items())
def test_each_divided_mixer_and_feed_forward_layer_has_one_all_reduce(name, sums):
    whole = load(name)
    for model in uses(whole.tensor_parallel(2)):
        wide = [p for p in exchanges(model) if dict(p.sizes)["n"] == whole.fields.d_model]
        assert [(p.layer.collective, p.repeats) for p in wide] == [("all-reduce", sums + 1)]


def mamba2(groups, **more):
    small = {
        "vocab_size": 1024,
        "hidden_size": 512,
        "num_hidden_layers": 3,
        "num_heads": 16,
        "state_size": 64,
    }
    return from_config({"model_type": "mamba2", **small, "n_groups": groups, **more})


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_devices_with_a_group_each_do_the_work_of_a_model_with_as_many_groups(devices):
    """A single group is replicated: like a model with one more B and C for each further device.

    Norms before the layers and the last one are not divided. The gated norm has one gain per channel,
    however many groups it norms by.
    """
    one, many = mamba2(1), mamba2(devices)
    share = one.tensor_parallel(devices)
    norms = (3 + 1) * 512
    assert devices * (share.parameters - norms) == many.parameters - norms
    for alone, together in zip(uses(share), uses(many), strict=True):
        assert devices * counts(alone)["matrix_flops"] == counts(together)["matrix_flops"]
    assert devices * share.cache_bytes() == many.cache_bytes()


def test_groups_are_divided_among_devices_if_there_are_enough():
    whole = mamba2(8)
    for devices in (2, 4, 8):
        share = whole.tensor_parallel(devices)
        assert devices * (share.parameters - 4 * 512) == whole.parameters - 4 * 512
        for one, part in zip(uses(whole), uses(share), strict=True):
            assert devices * counts(part)["matrix_flops"] == counts(one)["matrix_flops"]


def test_only_the_norm_of_a_group_that_devices_share_is_summed():
    """vLLM's gated norm sums one number per token over the devices if there is a single group."""
    for groups, sums in ((1, [3]), (8, [])):
        for model in uses(mamba2(groups).tensor_parallel(4)):
            assert [p.repeats for p in exchanges(model) if dict(p.sizes)["n"] == 1] == sums


@pytest.mark.parametrize(
    "name",
    [
        *("llama-2-70b", "llama-3-8b", "gpt2", "t5-small", "xlstm-7b", "lfm2-1.2b"),
        *("codestral-mamba-7b", "nemotron-nano-9b-v2"),
    ],
)
@pytest.mark.parametrize("devices", [2, 4])
def test_the_devices_together_do_the_models_work_and_hold_its_parameters(name, devices):
    whole = load(name)
    for one, share in zip(uses(whole), uses(whole.tensor_parallel(devices)), strict=True):
        assert counts(share)["matrix_flops"] * devices == pytest.approx(counts(one)["matrix_flops"], rel=1e-4)
    spare = devices * whole.tensor_parallel(devices).parameters - whole.parameters
    assert 0 < spare < 0.01 * devices * whole.parameters  # norms, positions and sums' biases are not divided


def test_blocks_of_a_gated_recurrence_are_divided_like_heads():
    """With as many key heads as queries nothing of RecurrentGemma's products is replicated."""
    small = {"vocab_size": 1024, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6}
    whole = from_config({"model_type": "recurrent_gemma", **small, "num_attention_heads": 8})
    share = whole.tensor_parallel(4)
    for one, part in zip(uses(whole), uses(share), strict=True):
        assert counts(part)["matrix_flops"] * 4 == counts(one)["matrix_flops"]
    assert 4 * share.cache_bytes() == whole.cache_bytes()


def test_the_cache_is_divided_by_kv_heads_and_no_further():
    whole, per_token = load("llama-2-70b"), 2 * 80 * 128 * 2  # tables, layers, head size, bytes
    for devices, heads in ((1, 8), (2, 4), (8, 1), (16, 1)):
        cache = whole.tensor_parallel(devices).cache_bytes()
        assert cache.xreplace({symbol(n): sp.Integer(1) for n in ("batch", "seq_kv")}) == per_token * heads


def test_every_device_caches_whole_latents():
    whole = load("deepseek-v2-lite")
    assert whole.tensor_parallel(4).cache_bytes() == whole.cache_bytes()


def test_every_device_has_a_slice_of_every_expert():
    """An eighth of each of Mixtral's experts on each of eight devices."""
    whole = load("mixtral-8x7b")
    assert whole.tensor_parallel(8).parameters == pytest.approx(whole.parameters / 8, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "devices", "measured"),
    [
        *(("llama-2-7b", n, s) for n, s in ((2, 168.84), (4, 254.02), (8, 328.43))),
        *(("llama-2-70b", n, s) for n, s in ((2, 21.32), (4, 38.01), (8, 62.50))),
    ],
)
def test_times_are_at_most_60_percent_above_gpt_fasts_fused_kernels(name, devices, measured):
    """README of pytorch-labs/gpt-fast, 8 × A100-80GB at 330 W, batch 1.

    Its kernels are fused and its sums are not NCCL's; separate kernels, which are predicted, are slower. No
    measurement is below the lower bound.
    """
    share = load(name).tensor_parallel(devices)
    p = cm.predict(share.decode(), "nvidia/a100-sxm-80gb", batch=1, seq_kv=105)
    assert p.lower_s < 1 / measured
    assert 1.0 < p.seconds * measured < 1.6


def test_widths_of_experts_that_no_layer_has_are_no_obstacle():
    """A Nemotron-H without experts has the width of the class's, 7,688, which 16 does not divide."""
    layers = {"num_hidden_layers": 2, "hybrid_override_pattern": "M-", "intermediate_size": 1024}
    heads = {"mamba_num_heads": 32, "num_attention_heads": 16, "num_key_value_heads": 16, "n_groups": 16}
    whole = from_config(
        {"model_type": "nemotron_h", "vocab_size": 1024, "hidden_size": 512, **layers, **heads}
    )
    assert whole.fields.experts == 0
    assert whole.tensor_parallel(16).parameters < whole.parameters / 15


def test_twice_the_devices_are_faster_by_less_than_two():
    whole = load("llama-2-70b")
    times = np.array(
        [
            cm.predict(whole.tensor_parallel(n).prefill(), "nvidia/h100-sxm", batch=1, seq=4096).seconds
            for n in (1, 2, 4, 8)
        ]
    )
    assert (times[:-1] / times[1:] > 1).all()
    assert (times[:-1] / times[1:] < 2).all()


@pytest.mark.parametrize("name", ["llama-2-7b", "gnmt"])
def test_one_device_runs_the_unchanged_model(name):
    whole = load(name)
    assert whole.tensor_parallel(1).decode() == whole.decode()
    assert whole.tensor_parallel(1).training() == whole.training()


@pytest.mark.parametrize(
    ("name", "devices", "error", "said"),
    [
        ("gpt2-xl", 2, SizeError, r"heads \(25\) do not divide evenly among 2 devices; 1, 5, 25 would"),
        ("llama-3-8b", 3, SizeError, "1, 2, 4, 8, 16, 32 would"),
        ("codestral-mamba-7b", 16, SizeError, r"groups of Mamba-2 \(8\) .* among 16 .*; 1, 2, 4, 8 would"),
        ("falcon-h1-34b", 4, SizeError, r"groups of Mamba-2 \(2\) .* among 4 devices; 1, 2 would"),
        ("mamba2-2.7b", 3, SizeError, r"heads of Mamba-2 \(80\) .* 1, 2, 4, 5, 8, 10, 16, 20, 40 would"),
        ("gnmt", 2, UnavailableError, "not known how devices share its layers"),
        ("llama-2-7b", 0, SizeError, "devices: wanted a whole number of at least 1, got 0"),
        ("llama-2-7b", -1, SizeError, "devices: wanted a whole number of at least 1, got -1"),
    ],
)
def test_devices_that_cannot_share_a_model_are_refused(name, devices, error, said):
    with pytest.raises(error, match=said):
        load(name).tensor_parallel(devices)


def test_tensor_parallel_training_is_refused_with_a_pointer_to_plan():
    with pytest.raises(UnavailableError, match="costmodel plan"):
        load("llama-2-7b").tensor_parallel(2).training()
