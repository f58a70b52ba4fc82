"""Training mixtures of experts on many devices: the papers' volumes, what is conserved, what is refused."""

import dataclasses
import itertools

import numpy as np
import pytest

from costmodel.errors import CostmodelError, UnavailableError
from costmodel.evaluate import compile_expressions, evaluate
from costmodel.models import load
from costmodel.parallel import (
    Cluster,
    Layered,
    Layout,
    Training,
    Transformer,
    largest_batch,
    longest_sequence,
    plan,
    stack_of,
)
from costmodel.parallel.limits import fits
from costmodel.parallel.search import layouts

H200 = "nvidia/h200-sxm"
MODELS = ["mixtral-8x7b", "qwen1.5-moe-a2.7b", "qwen3-30b-a3b", "deepseek-v2-lite", "deepseek-v3"]
_STACKS = {name: Layered.of(load(name)) for name in MODELS}


def step(name="mixtral-8x7b", devices=16, batch=64, seq=2048, node=8, **numbers):
    layout = Layout(**{"data": devices, **numbers})
    cluster = Cluster(device=H200, devices=devices, node=node)
    return Training(model=_STACKS[name], cluster=cluster, layout=layout, batch=batch, seq=seq)


# -- what is conserved -------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_one_device_has_all_parameters_of_the_model(name):
    """To a thousandth; `test_layered` compares models whose plan has all of their own parts."""
    whole = step(name, devices=1, batch=1)
    assert float(whole.parameters) == pytest.approx(load(name).parameters, rel=1e-3)


def test_offsets_of_routers_are_parameters_too():
    """DeepSeek-V3 has one per expert and layer."""
    whole = step("deepseek-v3", devices=1, batch=1)
    assert float(whole.parameters) == load("deepseek-v3").parameters


@pytest.mark.parametrize("name", MODELS)
def test_matrix_flops_equal_those_of_the_models_own_parts(name):
    """Forward, without the logits."""
    architecture = load(name)
    model = dataclasses.replace(architecture.training(optimizer=None), direction="fwd")
    c = architecture.fields
    whole = evaluate(model, batch=4, seq=512)["matrix_flops"] - 2 * 4 * 512 * c.d_model * c.vocab
    stages = step(name, devices=1, batch=4, seq=512)._stages
    assert stages.forward_flops(4) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_expert_parallelism_divides_experts_and_nothing_else(name):
    """The experts of all devices together are those of one device that has all."""
    one = step(name, devices=8, expert=1)._groups
    for expert in (e for e in (2, 4, 8) if _STACKS[name].experts % e == 0):
        others, experts = step(name, devices=8, expert=expert)._groups
        assert float(others.parameters) == float(one[0].parameters)
        assert expert * float(experts.parameters) == pytest.approx(float(one[1].parameters), rel=1e-12)
        assert float(experts.copies) == 8 / expert


@pytest.mark.parametrize("expert", [1, 4, 8])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_zero_holds_optimiser_state_once_over_all_copies(zero, expert):
    """12 bytes per parameter over all devices; without ZeRO, experts 8/e times and the rest 8 times."""
    alone = step(devices=1, batch=1)
    once, experts = 12 * float(alone.parameters), 12 * float(alone._groups[1].parameters)
    shared, whole = (step(devices=8, expert=expert, zero=z).memory["optimiser"] for z in (zero, 0))
    assert 8 * float(shared) == pytest.approx(once, rel=1e-12)
    assert 8 * float(whole) == pytest.approx(8 * (once - experts) + 8 / expert * experts, rel=1e-12)


@pytest.mark.parametrize(("expert", "experts"), [(8, 0), (4, 2), (1, 8)])
def test_zero_3_gathers_only_weights_that_have_copies(expert, experts):
    """Of a Mixtral layer: attention, router and norms, and those experts that other devices have too."""
    c = load("mixtral-8x7b").fields
    attention = 2 * c.d_model * c.head_dim * (c.heads + c.kv_heads)
    others = attention + c.d_model * c.experts + 2 * c.d_model
    largest = max(others + experts * 3 * c.d_model * c.d_expert, c.vocab * c.d_model)
    found = step("mixtral-8x7b", devices=8, expert=expert, zero=3).memory["gathered"]
    assert float(found) == pytest.approx(4 * largest, rel=1e-12)


def test_tensor_parallelism_divides_attention_and_not_experts():
    """Attention and the tables are cut over two devices; experts are spread over two either way."""
    alone, cut = (step(devices=2, tensor=t, data=2 // t, sequence_parallel=t > 1) for t in (1, 2))
    c = load("mixtral-8x7b").fields
    attention = c.layers * (2 * c.d_model * c.heads * c.head_dim + 2 * c.d_model * c.kv_heads * c.head_dim)
    tables = c.vocab * c.d_model * 2
    assert float(alone.parameters - cut.parameters) == pytest.approx((attention + tables) / 2, rel=1e-12)
    assert float(cut._groups[1].parameters) == float(alone._groups[1].parameters)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("cut", [2, 4])
def test_devices_that_share_an_expert_divide_its_weights_and_work(name, cut):
    """Liu et al., §3: cut by width instead of by number; each device does as much arithmetic as before."""
    numbers = {"devices": 16, "tensor": 4, "data": 4, "expert": 2, "sequence_parallel": True, "batch": 16}
    whole, shared = (step(name, expert_tensor=c, **numbers) for c in (1, cut))
    assert cut * float(shared._groups[1].parameters) == pytest.approx(float(whole._groups[1].parameters))
    assert float(shared._groups[0].parameters) == float(whole._groups[0].parameters)
    assert float(shared._groups[1].copies) == 16 / (2 * cut)
    sizes = {"batch": 2, "seq": 512, "devices": 2, "node": 2}
    for kinds in zip(*(whole.model.kinds(4, 4, c) for c in (1, cut)), strict=True):
        models = [kind.model("fwd+bwd") for kind in kinds]
        counts = [evaluate(m, **{n: sizes[n] for n in m.required})["matrix_flops"] for m in models]
        assert counts[0] == pytest.approx(counts[1], rel=1e-12)


def test_devices_that_share_an_expert_gather_tokens_and_add_results():
    """Among c devices, (c − 1)·k·d numbers per token, there and back, in each pass.

    The gather follows the all-to-all, and the sum precedes the return.
    """
    numbers = {"devices": 8, "tensor": 4, "data": 2, "expert": 2, "sequence_parallel": True, "batch": 8}
    whole, shared = (step(expert_tensor=c, **numbers) for c in (1, 4))
    assert float(shared.travel_bytes) == float(whole.travel_bytes)
    (kind,) = shared.model.kinds(4, 4, 4)
    names = [p.name for p in kind.model("fwd").cost.phases]
    first, last = (
        names.index(f"experts: expert tensor-parallel {c}") for c in ("all-gather", "reduce-scatter")
    )
    assert names[first - 1] == "experts: dispatch all-to-all"
    assert names[last + 1] == "experts: combine all-to-all"
    sent = [p.link for p in kind.model("fwd").cost.phases if "tensor-parallel" in p.name]
    values = compile_expressions(sent, ["batch", "seq"])(1.0, 2048.0)
    assert [float(v) for v in values] == [3 * 2 * (2048 / 4) * 2 * 4096] * 2


# -- what travels ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("expert", [1, 2, 4])
def test_tokens_travel_four_times_per_layer_and_step(name, expert):
    """Two all-to-alls forward (GShard, §3.2) and two backward, each of k·d numbers per token.

    (e − 1)/e of them go to other devices; full recomputation repeats the two forward ones.
    """
    training = step(name, expert=expert, batch=32, seq=1024)
    c = load(name).fields
    sparse = c.layers - getattr(c, "dense_first", 0)
    tokens = 32 * 1024 / 16
    expected = 4 * 2 * tokens * c.top_k * c.d_model * sparse * (expert - 1) / expert
    assert float(training.travel_bytes) == pytest.approx(expected, rel=1e-12)
    again = step(name, expert=expert, batch=32, seq=1024, recompute="full")
    assert float(again.travel_bytes) == pytest.approx(1.5 * expected, rel=1e-12)


def test_tensor_parallel_devices_send_only_their_own_positions():
    """With t devices for attention, each sends a t-th of the tokens: the bytes per device stay the same."""
    wide, cut = (step(tensor=t, data=16 // t, expert=8, sequence_parallel=t > 1, batch=32) for t in (1, 4))
    assert float(cut.travel_bytes) == pytest.approx(float(wide.travel_bytes), rel=1e-12)


def test_expert_traffic_between_nodes_takes_as_long_as_its_all_to_alls():
    """One device per node: four all-to-alls per layer and micro-batch, 2·k·d bytes per token."""
    training = step(expert=8, node=1)
    cluster = training.cluster
    size = 2.0 * 2048 * 2 * 4096
    once = cluster.collective_s("all-to-all", size, 8, 1)
    assert float(training.parts["experts"]) == pytest.approx(4 * 4 * 32 * float(once), rel=1e-9)
    assert float(step(expert=8, node=8).parts["experts"]) < 0.5 * float(training.parts["experts"])
    assert float(step(expert=1, node=1).parts["experts"]) == 0


def test_expert_traffic_hidden_behind_another_micro_batch_costs_nothing():
    shown, hidden = (step(expert=8, node=1, overlap_experts=o) for o in (False, True))
    both = {way: float(shown.parts[way]) for way in ("forward", "backward", "experts")}
    left = max(0.0, both["experts"] - both["forward"] - both["backward"])
    assert float(hidden.parts["experts"]) == pytest.approx(left)
    assert float(hidden.seconds) < float(shown.seconds)


# -- layouts -----------------------------------------------------------------------------------


def test_arrays_of_layouts_give_the_same_values_as_single_layouts():
    numbers = {"tensor": [1, 2, 4, 1], "pipeline": [1, 2, 1, 4], "data": [16, 4, 4, 4],
               "micro_batch": [1, 2, 1, 1], "expert": [8, 4, 2, 1]}  # fmt: skip
    together = step(**{k: np.array(v) for k, v in numbers.items()}, sequence_parallel=True)
    for i in range(4):
        alone = step(**{name: values[i] for name, values in numbers.items()}, sequence_parallel=True)
        assert float(together.seconds[i]) == pytest.approx(float(alone.seconds), rel=1e-12)
        assert float(together.memory_bytes[i]) == pytest.approx(float(alone.memory_bytes), rel=1e-12)


def test_dense_first_layers_are_on_the_first_stage():
    """The first of DeepSeek-V2-Lite's 27 layers has no experts; nine layers per stage."""
    training = step("deepseek-v2-lite", devices=3, pipeline=3, data=1, batch=3)
    first, last = training._stages.ends
    assert [float(x) for x in first] == [1, 8]
    assert [float(x) for x in last] == [0, 9]


def test_deepseek_v3s_61_layers_fit_16_uneven_stages():
    """61 is prime: the first stage has the three dense layers and one with experts, the last at most four."""
    training = step("deepseek-v3", devices=64, pipeline=16, data=4, batch=64)
    assert [[float(x) for x in end] for end in training._stages.ends] == [[3, 1], [0, 4]]
    architecture = load("deepseek-v3")
    even = Layered.of(dataclasses.replace(architecture, fields=architecture.fields.replaced(layers=64)))
    full = dataclasses.replace(training, model=even)
    assert float(training.seconds) == float(full.seconds)
    assert float(training.memory_bytes) == float(full.memory_bytes)
    assert training.model_flops < full.model_flops
    with pytest.raises(CostmodelError, match=r"61 layers over .* = 64 leave .* up to 61"):
        step("deepseek-v3", devices=64, pipeline=64, data=1, batch=64)


def test_the_longest_sequence_and_largest_batch_are_the_last_that_fit():
    training = step(expert=8, zero=1)
    n = longest_sequence(training)
    assert fits(dataclasses.replace(training, seq=n))
    assert not fits(dataclasses.replace(training, seq=n + 1))
    b = largest_batch(training)
    for sequences, fitting in ((b, True), (b + 1, False)):
        layout = dataclasses.replace(training.layout, micro_batch=sequences)
        assert fits(dataclasses.replace(training, layout=layout, batch=64 * sequences)) is fitting


def test_a_row_of_the_plan_equals_its_step_and_spreads_experts():
    cluster = Cluster(device=H200, devices=16)
    found = plan(_STACKS["mixtral-8x7b"], cluster, batch=64, seq=2048)
    best = found.iloc[0]
    names = ("tensor", "pipeline", "data", "micro_batch", "interleave", "expert", "expert_tensor")
    how = {name: int(best[name]) for name in names} | {"zero": int(best["zero"])}
    again = step(**how, sequence_parallel=bool(best["sequence_parallel"]), recompute=best["recompute"])
    assert float(again.seconds) == pytest.approx(best["seconds"], rel=1e-12)
    assert best["expert"] > 1
    assert set(found["expert"]) <= {1, 2, 4, 8}
    assert all(set(some["expert_tensor"]) == {1, tensor} for tensor, some in found.groupby("tensor"))
    assert (found["memory_bytes"] <= 0.92 * again.capacity).all()


@pytest.mark.parametrize("width", [14336, 14336 + 2, 14335])
def test_the_plans_layouts_are_all_that_can_run(width):
    """Every combination is tried, and what `Layout.check` refuses left out, as are experts cut otherwise.

    An expert is cut over all devices that share a layer, or over none.
    """
    own = load("mixtral-8x7b")
    model = Layered.of(dataclasses.replace(own, fields=own.fields.replaced(d_expert=width)))
    assert model.expert_width == width
    names = ("tensor", "pipeline", "data", "expert", "expert_tensor")
    wanted = set()
    for numbers in itertools.product((1, 2, 4), (1, 2, 4), (1, 2, 4), range(1, 9), (1, 2, 4)):
        layout = Layout(**dict(zip(names, numbers, strict=True)), sequence_parallel=True)
        try:
            layout.check(model, 8, 4)
        except CostmodelError:
            continue
        if layout.expert_tensor in (1, layout.tensor):
            wanted.add(numbers)
    found = layouts(model, Cluster(device=H200, devices=4), 8)
    rows = [row for one in found for row in zip(*(getattr(one.numbers, name) for name in names), strict=True)]
    assert {tuple(map(int, row)) for row in rows} == wanted


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"expert": 3}, "8 experts over expert = 3 .* 2 or 4 would"),
        ({"expert": 8, "data": 4, "pipeline": 4}, "4 devices that hold a layer.* = 8 .* 4 would"),
        ({"tensor": 2, "data": 8}, "tensor = 2 needs sequence_parallel"),
        # An expert is 14,336 = 2¹¹ · 7 wide.
        ({"expert_tensor": 3}, "14336 columns of an expert .* = 3 .* 2 or 4 would"),
        ({"expert_tensor": 2}, "1 devices that share a layer.* = 2 .* 1 would"),
        (
            {"tensor": 4, "data": 4, "sequence_parallel": True, "expert": 8, "expert_tensor": 4},
            "16 devices that hold a layer.* = 32 .* 16 would",
        ),
        ({"tensor": 16, "data": 1, "sequence_parallel": True}, "8 key and value heads over tensor = 16"),
    ],
)
def test_impossible_layouts_are_refused_with_what_would_do(numbers, message):
    with pytest.raises(CostmodelError, match=message):
        step(**numbers)


def test_expert_parallelism_needs_experts_and_a_known_model():
    model = Transformer.of(load("llama-2-7b"))
    with pytest.raises(CostmodelError, match="no mixture of experts"):
        Layout(data=8, expert=2).check(model, 8, 8)
    with pytest.raises(UnavailableError, match="how devices share its layers"):
        stack_of(load("gnmt"))
