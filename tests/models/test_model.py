"""A model is a layer made of layers: its counts are those of its parts, whatever its own sizes are."""

import copy
import dataclasses
import pickle

import pytest
import sympy as sp

import costmodel as cm
from costmodel.errors import SizeError, UnknownNameError
from costmodel.evaluate import evaluate
from costmodel.models import Model, Part
from costmodel.symbols import symbols

B, N = symbols("batch seq")
BLOCK = cm.TransformerBlock(causal=True)


def gpt2(layers=12, tied=True):
    """GPT-2 small without its embedding: blocks, and logits with the embedding's weights."""
    return Model(
        title="gpt2",
        parts=(
            Part.of("block", BLOCK, repeats=layers, batch=B, seq=N, d_model=768, heads=12),
            Part.of("logits", cm.Matmul(), m=B * N, n=50257, k=768, shared=tied),
        ),
        inputs=8 * B * N,
        outputs=2 * B * N * 50257,
    )


@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwd+bwd"])
def test_counts_are_those_of_the_stack_and_the_product(direction):
    """12 repeats of a block are a block of 12 layers."""
    model = dataclasses.replace(gpt2(), direction=direction)
    stack = dataclasses.replace(BLOCK, direction=direction)
    logits = cm.Matmul(direction=direction)
    whole = evaluate(model, batch=3, seq=640, sram=2**17)
    blocks = evaluate(stack, batch=3, seq=640, d_model=768, heads=12, num_layers=12, sram=2**17)
    last = evaluate(logits, m=3 * 640, n=50257, k=768)
    for count in ("matrix_flops", "vector_flops", "special_flops", "hbm_bytes", "l2_bytes", "launches"):
        assert whole[count] == pytest.approx(blocks[count] + last[count], rel=1e-12), count
    assert whole["kept_bytes"] == blocks["kept_bytes"] + last["kept_bytes"]


def test_models_can_be_pickled():
    model = cm.models.load("llama-2-7b")
    again = pickle.loads(pickle.dumps(model))
    assert again.parameters == model.parameters
    use = pickle.loads(pickle.dumps(model.prefill()))
    sizes = {"batch": 1, "seq": 16}
    assert evaluate(use, **sizes)["matrix_flops"] == evaluate(model.prefill(), **sizes)["matrix_flops"]


def test_models_that_were_predicted_can_be_pickled():
    """What a prediction compiles is no part of a model."""
    use = cm.models.load("gpt2").decode()
    sizes = {"batch": 1, "seq_kv": 16}
    seconds = cm.predict(use, "h100-sxm", **sizes).seconds
    for again in (pickle.loads(pickle.dumps(use)), copy.deepcopy(use)):
        assert again == use
        assert cm.predict(again, "h100-sxm", **sizes).seconds == seconds


def test_tied_weights_are_counted_once():
    """GPT-2 small has 12·(12·768² + 4·768) parameters in blocks without biases."""
    blocks = 12 * (12 * 768**2 + 4 * 768)
    assert gpt2().cost.parameters == blocks
    assert gpt2(tied=False).cost.parameters == blocks + 50257 * 768
    assert gpt2(tied=False).tensors().weights - gpt2().tensors().weights == 2 * 50257 * 768


def test_time_is_the_sum_of_its_parts():
    sizes = {"batch": 4, "seq": 1024}
    whole = cm.predict(gpt2(), "nvidia/a100-sxm-80gb", **sizes)
    blocks = cm.predict(BLOCK, "nvidia/a100-sxm-80gb", **sizes, d_model=768, heads=12, num_layers=12)
    logits = cm.predict(cm.Matmul(), "nvidia/a100-sxm-80gb", m=4096, n=50257, k=768)
    assert whole.seconds == pytest.approx(blocks.seconds + logits.seconds, rel=1e-12)
    assert {row["phase"].partition(":")[0] for row in whole.phases} == {"block", "logits"}


def test_its_sizes_are_those_that_the_parts_leave_open():
    assert gpt2().required == ("batch", "seq")
    with pytest.raises(UnknownNameError, match="size 'hidden' of gpt2"):
        cm.predict(gpt2(), "nvidia/h200-sxm", batch=1, seq=8, hidden=3)
    with pytest.raises(SizeError, match="gpt2 needs seq"):
        cm.predict(gpt2(), "nvidia/h200-sxm", batch=1)


def test_a_part_checks_its_sizes():
    with pytest.raises(SizeError, match="needs k"):
        Part.of("logits", cm.Matmul(), m=B, n=8)
    with pytest.raises(UnknownNameError, match="size 'heads' of matmul"):
        Part.of("logits", cm.Matmul(), m=B, n=8, k=8, heads=2)
    with pytest.raises(SizeError, match="kv_heads"):
        Part.of("attention", cm.TiledAttention(), batch=1, seq=8, heads=6, kv_heads=4, head_dim=8)


def test_sizes_that_a_part_refuses_are_refused_when_they_are_known():
    """A causal query needs its own key; which sizes those are is known only when they are given."""
    kv = sp.Symbol("seq_kv", positive=True, integer=True)
    assert kv == symbols("seq_kv")[0]
    part = Part.of(
        "attention", cm.TiledAttention(causal=True), batch=1, seq=N, seq_kv=kv, heads=1, head_dim=8
    )
    model = Model(title="one", parts=(part,), inputs=N, outputs=N)
    with pytest.raises(SizeError, match="seq_kv"):
        evaluate(model, seq=16, seq_kv=8)


def test_another_dtype_halves_the_traffic_of_everything():
    wide = dataclasses.replace(gpt2(), parts=gpt2().parts).in_dtype("fp32")
    assert evaluate(wide, batch=1, seq=512)["parameters"] == evaluate(gpt2(), batch=1, seq=512)["parameters"]
    assert wide.tensors().weights == 2 * gpt2().tensors().weights
    assert ("matrix", "fp32") in wide.cost.flops


def test_no_parts_is_refused():
    with pytest.raises(SizeError, match="at least one part"):
        Model(title="nothing", parts=(), inputs=sp.Integer(1), outputs=sp.Integer(1))


def test_equal_models_share_one_plan():
    assert gpt2() == gpt2()
    assert hash(gpt2()) == hash(gpt2())
    assert gpt2(layers=13) != gpt2()
