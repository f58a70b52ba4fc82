"""Training recurrences, scans and encoder-decoders on many devices: what is conserved, sent and held."""

import dataclasses

import numpy as np
import pytest

from costmodel.errors import CostmodelError
from costmodel.evaluate import compile_expressions, evaluate
from costmodel.models import available, from_config, load
from costmodel.models.families import by_type
from costmodel.parallel import (
    Cluster,
    Layered,
    Layout,
    Training,
    Transformer,
    plan,
    stack_of,
)
from costmodel.predict import predict

H200 = "nvidia/h200-sxm"
MODELS = [
    "t5-large", "transformer-big", "mamba-130m", "rwkv-4-169m", "xlstm-7b", "gemma-2-2b",
    "qwen3-next-80b-a3b", "llama-4-scout", "lfm2-1.2b", "codestral-mamba-7b", "nemotron-nano-9b-v2",
    "falcon-h1-34b",
]  # fmt: skip
SIZES = {"batch": 4, "seq": 512, "seq_kv": 256, "devices": 1, "node": 1}


def step(name, devices=8, batch=8, seq=512, attention="tiled", seq_kv=None, **numbers):
    layout = Layout(**{"data": devices, **numbers})
    model = Layered.of(load(name), attention=attention)
    cluster = Cluster(device=H200, devices=devices)
    encoded = seq_kv if model.encodes else None  # only models with an encoder take its length
    return Training(model=model, cluster=cluster, layout=layout, batch=batch, seq=seq, seq_kv=encoded)


def given(model):
    return {name: SIZES[name] for name in model.required}


def sent(model, collective):
    """Return the bytes that a device sends with one kind of collective."""
    phases = [p for p in model.cost.phases if p.options.get("collective") == collective]
    sizes = given(model)
    return sum(compile_expressions([p.link * p.repeats for p in phases], list(sizes))(*sizes.values()))


# -- what is conserved -------------------------------------------------------------------------


OLMO_HYBRID = {
    "model_type": "olmo_hybrid", "vocab_size": 1024, "hidden_size": 512, "intermediate_size": 1536,
    "num_hidden_layers": 8, "num_attention_heads": 8,
}  # fmt: skip
GEMMA_4 = {
    "model_type": "gemma4_text", "vocab_size": 1024, "hidden_size": 512, "intermediate_size": 1536,
    "num_hidden_layers": 12, "num_kv_shared_layers": 6, "hidden_size_per_layer_input": 64,
}  # fmt: skip
STEP = {
    "model_type": "step3p5", "vocab_size": 1024, "hidden_size": 512, "num_hidden_layers": 8, "head_dim": 64,
    "num_attention_heads": 8, "num_sliding_attention_heads": 16, "sliding_window": 128,
    "layer_types": ["full_attention", "sliding_attention"] * 4, "n_routed_experts": 16,
}  # fmt: skip


def smallest_of_every_family():
    """Return the smallest catalogue model of every family that can be planned, for quick tests.

    Four have none there.
    """
    found = {}
    others = map(from_config, (OLMO_HYBRID, GEMMA_4, STEP, {"model_type": "axk2"}))
    for architecture in (*map(load, available()), *others):
        family = architecture.family
        if family.cut and architecture.layered:
            known = found.setdefault(family, architecture)
            found[family] = min(known, architecture, key=lambda a: a.parameters)
    return found


SMALLEST = smallest_of_every_family()
#: Mixtures of experts of families whose smallest model is none.
MIXTURES = ["olmoe-1b-7b", "lfm2-8b-a1b"]


def alone(model, batch=4, **sizes):
    cluster = Cluster(device=H200, devices=1)
    layout = Layout(micro_batch=batch)
    return Training(model=model, cluster=cluster, layout=layout, batch=batch, **sizes)


def of_model(architecture):
    """Return the time of a step by the model itself, which knows no layouts [s]."""
    whole = architecture.training()
    return float(predict(whole, H200, given(whole)).seconds)


def test_every_family_that_can_be_planned_is_tested():
    assert set(SMALLEST) == {family for family in by_type().values() if family.cut}


@pytest.mark.parametrize("architecture", [*SMALLEST.values(), *map(load, MIXTURES)], ids=lambda a: a.name)
def test_training_on_one_device_takes_the_time_and_parameters_of_the_model(architecture):
    """Where launches last as long as kernels, forward and backward each wait for their first: up to 0.1 %."""
    encoder = {"seq_kv": 256} if architecture.family.encodes else {}
    training = alone(Layered.of(architecture), seq=512, **encoder)
    assert float(training.seconds) == pytest.approx(of_model(architecture), rel=1e-3)
    assert float(training.parameters) == architecture.parameters


@pytest.mark.parametrize(("name", "most"), [("llama-2-7b", 0.005), ("gpt2", 0.03), ("bert-base", 0.03)])
def test_megatrons_layer_on_one_device_takes_nearly_the_time_of_the_model(name, most):
    """The exception: Megatron's layer is described by itself, so that its sums can be left whole.

    Keys and values have a product of their own, whose gradients are summed; it rotates no positions, and the
    last norm, biases, and BERT's other heads are left out.
    """
    model = stack_of(load(name))
    assert isinstance(model, Transformer)
    assert float(alone(model, seq=512).seconds) == pytest.approx(of_model(load(name)), rel=most)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_two_devices_that_share_a_layer_do_half_of_its_matrix_flops_each(name, direction):
    """Products are cut by heads, by channels, by inner width or by positions."""
    model = Layered.of(load(name))
    for whole, cut in zip(model.kinds(1, 1), model.kinds(2, 2), strict=True):
        one, two = (evaluate(k.model(direction), **given(k.model(direction))) for k in (whole, cut))
        assert 2 * float(two["matrix_flops"]) == pytest.approx(float(one["matrix_flops"]), rel=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_the_stages_together_have_every_layer(name):
    """If the stages divide each kind of layer evenly, all have the same layers."""
    training = step(name, devices=2, pipeline=2, data=1)
    kinds = training.model.kinds(1, 1)
    both = [sum(float(end[i]) for end in training._stages.ends) for i in range(len(kinds))]
    assert both == [kind.count for kind in kinds]


# -- what travels ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "pairs"), [("xlstm-7b", [2]), ("rwkv-4-169m", [2]), ("mamba-130m", [1]),
                                             ("t5-large", [2, 3]), ("codestral-mamba-7b", [1]),
                                             ("nemotron-nano-9b-v2", [1, 1, 1]),
                                             ("olmo-2-7b", [2])])  # fmt: skip
@pytest.mark.parametrize("tensor", [2, 4])
def test_each_pair_of_products_gathers_and_scatters_positions_once(name, pairs, tensor):
    """Korthikanti et al., §4.2.2: (t − 1)/t of b·s·d numbers before and after a pair, in both directions.

    All positions are gathered before the first product, and scattered after the second (Figure 5). A decoder
    layer also gathers its encoder's output. Mamba sums rank + 2·states numbers per token, which moves twice
    their bytes (a ring's all-reduce), and OLMo 2 a number per token for its norm of all queries, and of all
    keys (OLMo team, arXiv 2501.00656, §3.1), of which each device has a part.
    """
    model, c = Layered.of(load(name)), load(name).fields
    lengths = [256, 512] if model.encodes else [512] * len(pairs)
    for i, kind in enumerate(model.kinds(tensor, tensor)):
        rows = (tensor - 1) / tensor * 2 * 4 * lengths[i] * c.d_model
        encoded = (tensor - 1) / tensor * 2 * 4 * 256 * c.d_model if model.encodes and i else 0
        forward, backward = kind.model("fwd"), kind.model("bwd")
        assert sent(forward, "all-gather") == sent(backward, "reduce-scatter") == pairs[i] * rows + encoded
        assert sent(forward, "reduce-scatter") == sent(backward, "all-gather") == pairs[i] * rows
        summed = {"mamba-130m": lambda: c.rank + 2 * c.state, "olmo-2-7b": lambda: 2}.get(name, int)()
        assert sent(forward, "all-reduce") == sent(backward, "all-reduce") == 2 * rows * summed / c.d_model
        which = {"all-gather": "G", "reduce-scatter": "S"}
        order = "".join(which.get(p.options.get("collective"), "") for p in forward.cost.phases)
        assert order.replace("GG", "G") == "GS" * pairs[i]


def test_mixers_side_by_side_gather_and_scatter_one_by_one():
    """Falcon-H1's Mamba-2, attention and feed-forward layer each have a pair of products."""
    c = load("falcon-h1-34b").fields
    (kind,) = Layered.of(load("falcon-h1-34b")).kinds(2, 2)
    for collective in ("all-gather", "reduce-scatter"):
        assert sent(kind.model("fwd"), collective) == 3 * 2 * 4 * 512 * c.d_model / 2


def test_a_shared_block_gathers_its_input_with_the_embedding():
    """Zamba2's attention reads rows of twice the width; an adapter's first product is replicated."""
    c = load("zamba2-7b").fields
    whole, cut = (Layered.of(load("zamba2-7b")).kinds(n, n) for n in (1, 2))
    row = 2 * 4 * 512 * c.d_model / 2
    for one, two in zip(whole[1:], cut[1:], strict=True):
        assert sent(two.model("fwd"), "all-gather") == (2 + 1 + 1) * row
        assert sent(two.model("fwd"), "reduce-scatter") == 3 * row
        done = [float(evaluate(k.model("fwd"), **given(k.model("fwd")))["matrix_flops"]) for k in (one, two)]
        assert 2 * done[1] - done[0] == 2 * 4 * 512 * c.d_model * c.adapter_rank


def test_gates_of_norms_are_made_of_a_devices_own_positions():
    """A.X K2: an exchange around attention and around a feed-forward layer; experts have one of their own."""
    model = Layered.of(from_config({"model_type": "axk2"}))
    for kind, pairs in zip(model.kinds(2, 2), (2, 1), strict=True):
        sums = [sent(kind.model(way), "reduce-scatter") for way in ("fwd", "bwd")]
        assert sums == [pairs * 2 * 4 * 512 * 2048 / 2] * 2


def test_a_decoders_stages_pass_the_encoders_output_on():
    """Each of 8 micro-batches sends b·(s + s_e)·d numbers between stages in both directions."""
    for seq_kv in (64, 2048):
        training = step("t5-large", devices=2, pipeline=2, data=1, seq_kv=seq_kv)
        once = training.cluster.collective_s("send-receive", 2 * (512 + seq_kv) * 1024, 2, 2)
        assert float(training.parts["sends"]) == pytest.approx(8 * 2 * float(once), rel=1e-9)


def test_the_encoders_length_counts_and_defaults_to_the_decoders():
    times = [float(step("t5-large", seq_kv=n).seconds) for n in (None, 512, 1024)]
    assert times[0] == times[1] < times[2]
    assert step("t5-large", seq_kv=1024).model_flops > step("t5-large").model_flops


# -- what is held ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_sharing_and_recomputation_reduce_the_memory_held(name):
    alone, shared, again = (
        step(name, devices=2, tensor=t, data=2 // t, sequence_parallel=t > 1, recompute=r)
        for t, r in ((1, "none"), (2, "none"), (1, "full"))
    )
    for kind in ("weights", "optimiser", "activations"):
        assert float(shared.memory[kind]) < float(alone.memory[kind])
    assert float(again.memory["activations"]) < float(alone.memory["activations"])
    assert float(again.seconds) > float(alone.seconds)


def test_selective_recomputation_saves_stored_scores():
    kept = [
        float(step("t5-large", attention="dense", recompute=again).memory["activations"])
        for again in ("none", "selective", "full")
    ]
    assert kept[0] > kept[1] > kept[2]


# -- plans -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t5-large", "mamba-2.8b", "rwkv-4-14b", "xlstm-7b"])
def test_a_row_of_the_plan_equals_the_step_of_its_layout(name):
    model = stack_of(load(name))
    found = plan(model, Cluster(device=H200, devices=8), batch=32, seq=1024)
    assert (found["tensor"] > 1).any()
    assert (found["pipeline"] > 1).any()
    row = found[found["tensor"] > 1].iloc[0]
    names = ("tensor", "pipeline", "data", "micro_batch", "interleave", "zero")
    how = {**{n: int(row[n]) for n in names}, "recompute": row["recompute"]}
    again = step(name, batch=32, seq=1024, sequence_parallel=True, **how)
    assert float(again.seconds) == pytest.approx(row["seconds"], rel=1e-12)
    assert float(again.memory_bytes) == pytest.approx(row["memory_bytes"], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        ("mamba-130m", {"tensor": 5}, "1536 channels over tensor = 5 .* 4 or 6 would"),
        ("xlstm-7b", {"tensor": 3}, "8 heads over tensor = 3 .* 2 or 4 would"),
        ("codestral-mamba-7b", {"tensor": 16}, "8 groups of Mamba-2 over tensor = 16 .* 8 would"),
        ("t5-large", {"tensor": 2}, "needs sequence_parallel"),
        ("t5-large", {"tensor": [2, 1], "data": [1, 2]}, "tensor = 2 needs sequence_parallel"),
        ("t5-large", {"pipeline": 64}, "48 layers over .* = 64 leave .* up to 48"),
    ],
)
def test_impossible_layouts_are_refused_with_what_would_do(name, numbers, message):
    devices = int(np.max(next(iter(numbers.values()))))
    with pytest.raises(CostmodelError, match=message):
        step(name, devices=devices, batch=64, **{"data": 1, **numbers})


@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
def test_a_stack_built_from_parts_agrees_with_megatrons_transformer(dtype):
    """Two descriptions of the same OPT layer, which differ in biases and positions, and in their time."""
    architecture = load("opt-2.7b")
    layout = Layout(tensor=2, data=4, micro_batch=2, sequence_parallel=True)
    cluster = Cluster(device=H200, devices=8)
    sizes = {"cluster": cluster, "layout": layout, "batch": 16, "seq": 2048}
    theirs = Training(model=Transformer.of(architecture, dtype=dtype), **sizes)
    ours = Training(model=Layered.of(architecture, dtype=dtype), **sizes)
    assert ours.model_flops == pytest.approx(theirs.model_flops, rel=1e-12)
    positions = (architecture.fields.positions + 2) * architecture.fields.d_model
    assert float(ours.parameters) - positions == pytest.approx(float(theirs.parameters), rel=1e-3)
    assert float(ours.seconds) == pytest.approx(float(theirs.seconds), rel=0.05)
    assert dataclasses.replace(ours, seq=4096).seconds > ours.seconds
    assert float(ours.memory["activations"]) == pytest.approx(float(theirs.memory["activations"]), rel=1e-12)


@pytest.mark.parametrize(("name", "whole"), [("t5-large", 0), ("xlstm-7b", 0), ("mistral-7b", 0),
                                             ("deepseek-v3", 2 * (1536 + 512))])  # fmt: skip
def test_each_device_keeps_its_part_of_shared_activations(name, whole):
    """Korthikanti et al., §4.2.2: a t-th of a layer; only latents are kept whole on every device."""
    alone, shared = (
        step(name, devices=t, data=1, tensor=t, sequence_parallel=t > 1, batch=1, seq=1024)._stages.kept()[0]
        for t in (1, 4)
    )
    latents = 2 * 1024 * load(name).fields.layers * whole
    assert float(shared) - latents == pytest.approx((float(alone) - latents) / 4, rel=2e-3)


def test_norms_of_queries_and_keys_add_their_inputs_to_the_activations():
    """Autograd saves a norm's input: 2·(h + h_kv)·d_h bytes per token and layer that Llama does not keep."""
    own = load("qwen3-8b")
    without = dataclasses.replace(own, fields=own.fields.replaced(type="llama"))
    steps = {"cluster": Cluster(device=H200, devices=1), "layout": Layout(), "batch": 1, "seq": 512}
    kept = [float(Training(model=stack_of(model), **steps).memory["activations"]) for model in (own, without)]
    c = own.fields
    assert kept[0] - kept[1] == 2 * (c.heads + c.kv_heads) * c.head_dim * 512 * c.layers


@pytest.mark.parametrize("name", ["mistral-7b", "gemma-2-2b", "gemma-3-1b"])
def test_windows_limit_the_flops_of_a_planned_step(name):
    """Beyond the window each position has the same number of keys, so FLOPs per token grow more slowly."""
    stack = stack_of(load(name))
    assert isinstance(stack, Layered)
    windowed, whole = [], []
    for seq in (8192, 32768):
        steps = {"cluster": Cluster(device=H200, devices=1), "layout": Layout(), "batch": 1, "seq": seq}
        windowed.append(Training(model=stack, **steps).model_flops / seq)
        everything = load(name).fields.replaced(window=0)
        model = Layered.of(dataclasses.replace(load(name), fields=everything))
        whole.append(Training(model=model, **steps).model_flops / seq)
    assert windowed[1] - windowed[0] < 0.6 * (whole[1] - whole[0])
