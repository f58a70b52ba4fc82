"""A model is a layer made of layers: its counts and times are the sums of those of its parts."""

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
    """Return GPT-2 small without its embedding: blocks, and logits that share its weights if tied."""
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
def test_counts_are_the_sum_of_the_stack_of_blocks_and_the_logits(direction):
    """12 repeats of a block count as one TransformerBlock of 12 layers."""
    model = dataclasses.replace(gpt2(), direction=direction)
    stack = dataclasses.replace(BLOCK, direction=direction)
    logits = cm.Matmul(direction=direction)
    whole = evaluate(model, batch=3, seq=640, sram=2**17)
    blocks = evaluate(stack, batch=3, seq=640, d_model=768, heads=12, num_layers=12, sram=2**17)
    last = evaluate(logits, m=3 * 640, n=50257, k=768)
    for count in ("matrix_flops", "vector_flops", "special_flops", "hbm_bytes", "l2_bytes", "launches"):
        assert whole[count] == pytest.approx(blocks[count] + last[count], rel=1e-12), count
    assert whole["kept_bytes"] == blocks["kept_bytes"] + last["kept_bytes"]


def test_pickled_models_keep_their_counts():
    model = cm.models.load("llama-2-7b")
    again = pickle.loads(pickle.dumps(model))
    assert again.parameters == model.parameters
    use = pickle.loads(pickle.dumps(model.prefill()))
    sizes = {"batch": 1, "seq": 16}
    assert evaluate(use, **sizes)["matrix_flops"] == evaluate(model.prefill(), **sizes)["matrix_flops"]


def test_models_can_be_pickled_and_copied_after_a_prediction():
    """What a prediction compiles does not become part of the model."""
    use = cm.models.load("gpt2").decode()
    sizes = {"batch": 1, "seq_kv": 16}
    seconds = cm.predict(use, "h100-sxm", **sizes).seconds
    for again in (pickle.loads(pickle.dumps(use)), copy.deepcopy(use)):
        assert again == use
        assert cm.predict(again, "h100-sxm", **sizes).seconds == seconds


def test_tied_weights_are_counted_once():
    """Without biases, the blocks of GPT-2 small have 12·(12·768² + 4·768) parameters."""
    blocks = 12 * (12 * 768**2 + 4 * 768)
    assert gpt2().cost.parameters == blocks
    assert gpt2(tied=False).cost.parameters == blocks + 50257 * 768
    assert gpt2(tied=False).tensors().weights - gpt2().tensors().weights == 2 * 50257 * 768


def test_the_time_is_the_sum_of_the_times_of_the_parts():
    sizes = {"batch": 4, "seq": 1024}
    whole = cm.predict(gpt2(), "nvidia/a100-sxm-80gb", **sizes)
    blocks = cm.predict(BLOCK, "nvidia/a100-sxm-80gb", **sizes, d_model=768, heads=12, num_layers=12)
    logits = cm.predict(cm.Matmul(), "nvidia/a100-sxm-80gb", m=4096, n=50257, k=768)
    assert whole.seconds == pytest.approx(blocks.seconds + logits.seconds, rel=1e-12)
    assert {row["phase"].partition(":")[0] for row in whole.phases} == {"block", "logits"}


def test_a_model_requires_the_sizes_that_its_parts_leave_open():
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


def test_sizes_that_a_part_refuses_are_refused_at_evaluation():
    """A causal query needs its own key; whether it has one is known only once the sizes are given."""
    kv = sp.Symbol("seq_kv", positive=True, integer=True)
    assert kv == symbols("seq_kv")[0]
    part = Part.of(
        "attention", cm.TiledAttention(causal=True), batch=1, seq=N, seq_kv=kv, heads=1, head_dim=8
    )
    model = Model(title="one", parts=(part,), inputs=N, outputs=N)
    with pytest.raises(SizeError, match="seq_kv"):
        evaluate(model, seq=16, seq_kv=8)


def test_in_dtype_changes_the_format_of_every_part():
    wide = dataclasses.replace(gpt2(), parts=gpt2().parts).in_dtype("fp32")
    assert evaluate(wide, batch=1, seq=512)["parameters"] == evaluate(gpt2(), batch=1, seq=512)["parameters"]
    assert wide.tensors().weights == 2 * gpt2().tensors().weights
    assert ("matrix", "fp32") in wide.cost.flops


def test_a_model_without_parts_is_refused():
    with pytest.raises(SizeError, match="at least one part"):
        Model(title="nothing", parts=(), inputs=sp.Integer(1), outputs=sp.Integer(1))


def test_models_with_equal_parts_are_equal_and_hash_alike():
    """Compiled plans are therefore shared."""
    assert gpt2() == gpt2()
    assert hash(gpt2()) == hash(gpt2())
    assert gpt2(layers=13) != gpt2()
