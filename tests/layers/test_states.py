"""Layers that keep their state in memory: refusals, what a narrower state saves, what a token costs."""

import pytest

from costmodel import evaluate
from costmodel.errors import CostmodelError
from costmodel.layers import classes, get
from costmodel.layers._states import KeptState

#: Sizes of all layers with a state.
SIZES = {
    "batch": 8,
    "heads": 4,
    "kv_heads": 4,
    "head_dim": 64,
    "value_dim": 64,
    "d_model": 128,
    "hidden": 256,
    "state": 16,
    "features": 32,
}
LAYERS = [name for name, kind in classes().items() if issubclass(kind, KeptState)]


def counted(name, seq=1, **options):
    if name in ("linear-attention", "performer"):
        options = {"causal": True, **options}
    layer = get(name)(form="recurrent", **options)
    sizes = {size: value for size, value in SIZES.items() if size in layer.sizes()}
    return evaluate(layer, **sizes, seq=seq)


def test_all_families_with_matrix_valued_states_can_keep_them():
    assert {"mamba", "mamba-2", "gated-delta-net", "retnet", "gla", "linear-attention"} <= set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_a_state_in_16_bits_halves_what_its_passes_move(name):
    """The rest, a token's operands, is the same; so is the arithmetic."""
    wide, narrow = counted(name), counted(name, state_dtype="bf16")
    saved = wide["hbm_bytes"] - narrow["hbm_bytes"]
    assert saved == 2 * (wide["footprint_bytes"] - narrow["footprint_bytes"]) > 0
    longer = counted(name, seq=5), counted(name, seq=5, state_dtype="bf16")
    assert longer[0]["hbm_bytes"] - longer[1]["hbm_bytes"] == saved
    assert wide["vector_flops"] == narrow["vector_flops"]


@pytest.mark.parametrize("name", LAYERS)
def test_tokens_are_dependent_steps_of_one_kernel(name):
    """Maps to features are kernels of their own, over all tokens at once."""
    one, many = counted(name), counted(name, seq=7)
    assert many["launches"] == one["launches"]
    assert many["depth"] - one["depth"] == 6
    assert many["vector_flops"] == pytest.approx(7 * one["vector_flops"])


def test_mamba_takes_the_same_arithmetic_token_by_token_as_in_a_scan():
    sizes = {"batch": 8, "seq": 33, "d_model": 128, "hidden": 256, "state": 16}
    scan, steps = (evaluate(get("mamba")(form=form), **sizes) for form in ("scan", "recurrent"))
    for count in ("vector_flops", "special_flops", "depth"):
        assert scan[count] == steps[count]
    assert steps["hbm_bytes"] - scan["hbm_bytes"] == 2 * 4 * 8 * 256 * 16


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("gla", {"state_dtype": "bf16"}, "state_dtype of gla: applies to form=recurrent"),
        ("mamba", {"form": "recurrent", "state_dtype": "fp8"}, "unknown state_dtype 'fp8' of mamba"),
        ("mamba", {"form": "recurrent", "fused": False}, "takes token after token; leave out fused=false"),
        ("mamba", {"form": "recurrent", "algorithm": "blelloch"}, "leave out algorithm=blelloch"),
        (
            "mamba",
            {"form": "recurrent", "direction": "bwd"},
            "unknown direction 'bwd' of mamba with form=recurrent",
        ),
        ("mamba", {"form": "chunked"}, "unknown form 'chunked' of mamba; known: recurrent, scan"),
        ("mamba-2", {"form": "recurrent", "fused": True}, "fused of mamba-2: applies to form=chunked"),
        ("mamba-2", {"direction": "fwd+bwd", "fused": True}, "'fwd+bwd' of mamba-2 with fused=true"),
        ("mamba-2", {"form": "scan"}, "unknown form 'scan' of mamba-2; known: chunked, recurrent"),
    ],
)
def test_options_that_no_kernel_has_are_refused(name, options, said):
    with pytest.raises(CostmodelError) as caught:
        get(name)(**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
