"""Options of a mixture of experts against counting by hand."""

from __future__ import annotations

import pytest

import costmodel as cm
from costmodel.errors import CostmodelError, SizeError
from costmodel.layers import get

SIZES = {"batch": 1, "seq": 16, "d_model": 512, "d_ff": 256, "experts": 64, "top_k": 4}
WEIGHTS = 3 * 512 * 256 * 2


def predicted(name="moe", rung=None, device="nvidia/h200-sxm", **options):
    sizes = {size: options.pop(size, value) for size, value in SIZES.items()}
    extra = {"devices": options.pop("devices")} if "devices" in options else {}
    return cm.predict(get(name)(**options), device, rung=rung, **sizes, **extra)


def product(prediction, part="down projection"):
    return next(phase for phase in prediction.phases if phase["phase"].endswith(part))


def test_without_a_router_its_work_and_weights_are_left_out():
    whole, experts = predicted(), predicted(router=False)
    assert whole.matrix_flops - experts.matrix_flops == 2 * 16 * 512 * 64
    assert whole.parameters - experts.parameters == 512 * 64
    names = [phase["phase"] for phase in whole.phases]
    assert names[:2] == ["router", "top-k routing"]
    assert [phase["phase"] for phase in experts.phases] == names[2:]


def test_equal_loads_use_every_expert_that_they_can():
    for tokens, working in ((1, 4), (8, 32), (16, 64), (1024, 64)):
        down = product(predicted(loads="balanced", seq=tokens))
        assert down["hbm_bytes"] == working * WEIGHTS / 3 + tokens * 4 * (256 + 512) * 2


def test_a_device_runs_its_part_of_the_choices_and_keeps_rows_for_all():
    """Of 64 choices, a device of 8 runs 8, by 8 experts; it writes all 64 rows of results."""
    alone, among = (predicted(loads="balanced", router=False, among=devices) for devices in (1, 8))
    assert among.matrix_flops == alone.matrix_flops / 8
    assert among.parameters == alone.parameters / 8
    assert product(among)["hbm_bytes"] == 8 * WEIGHTS / 3 + 8 * 256 * 2 + 64 * 512 * 2
    assert product(among, "silu and product")["hbm_bytes"] == 64 * 3 * 256 * 2
    least = predicted(loads="balanced", router=False, among=8, seq=1)
    assert least.matrix_flops == 6 * 512 * 256  # the busiest device runs one choice at least


def test_a_lower_bound_does_not_depend_on_how_tokens_choose():
    bounds = {
        float(predicted(loads=loads, seq=4096).lower_s) for loads in ("random", "balanced", "power-law")
    }
    assert len(bounds) == 1


def test_what_lies_between_products_has_16_bits_in_fp8():
    between = [product(predicted(dtype=dtype), "silu and product")["hbm_bytes"] for dtype in ("fp8", "bf16")]
    assert between[0] == between[1] == 64 * 3 * 256 * 2


def test_training_and_other_processors_use_a_librarys_product():
    trained = predicted(direction="fwd+bwd").plan.phases
    assert {part.kernel for part in trained} == {"gemm", "stream"}
    tpu = predicted(device="google/tpu-v5e").plan.phases
    assert "systolic_gemm" in {part.kernel for part in tpu}
    gpu = [part.kernel for part in predicted(device="amd/mi300x").plan.phases]
    assert gpu.count("experts") == 2


def test_training_without_a_router_leaves_out_its_kernels():
    """The product and its two gradients take 6·tokens·d·E."""
    counts = {
        router: cm.evaluate(get("moe")(direction="fwd+bwd", router=router), **SIZES)
        for router in (True, False)
    }
    tokens = SIZES["batch"] * SIZES["seq"]
    left = counts[True]["matrix_flops"] - counts[False]["matrix_flops"]
    assert left == 6 * tokens * SIZES["d_model"] * SIZES["experts"]
    names = [phase.name for phase in get("moe")(direction="fwd+bwd", router=False).cost.phases]
    assert not [name for name in names if "rout" in name]
    assert "sum over experts" in names


@pytest.mark.parametrize(
    "options",
    [
        {"direction": "fwd+bwd"},
        {"direction": "fwd+bwd", "router": False},
        {"direction": "fwd+bwd", "shared": 1},
        {"router": False},
        {"router": False, "shared": 2},
        {"loads": "balanced"},
    ],
)
def test_experts_on_one_device_are_the_mixture(options):
    """No copy of a token is sent, so none is made: the product gathers tokens as it reads them."""
    alone = cm.evaluate(get("expert-parallel")(**options), **SIZES, devices=1)
    assert alone == {**cm.evaluate(get("moe")(**options), **SIZES), "link_bytes": 0}


def test_devices_send_tokens_to_experts_after_the_choice_and_before_the_products():
    """Without a router the choices are inputs: its two kernels are missing, and nothing else."""
    routed, given = (predicted("expert-parallel", devices=4, router=router) for router in (True, False))
    names = [phase["phase"] for phase in routed.phases]
    assert names[:4] == ["router", "top-k routing", "token permutation", "dispatch all-to-all"]
    assert [phase["phase"] for phase in given.phases] == names[2:]
    assert routed.parameters - given.parameters == 512 * 64


def test_predictions_have_an_interval_wider_where_nothing_was_fitted():
    def width(device):
        found = predicted(router=False, device=device, seq=4096)
        return float(found.hi80_s / found.lo80_s)

    assert 1 < width("nvidia/h200-sxm") < width("amd/mi300x")


@pytest.mark.parametrize(
    ("name", "options", "error", "told"),
    [
        ("moe", {"loads": "even"}, CostmodelError, "loads"),
        ("moe", {"among": 0}, CostmodelError, "at least 1"),
        ("moe", {"among": 3}, SizeError, "must divide experts"),
        ("moe", {"among": 2, "direction": "bwd"}, CostmodelError, "among=2"),
        ("expert-parallel", {"among": 2, "devices": 2}, CostmodelError, "size devices"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, error, told):
    with pytest.raises(error, match=told):
        predicted(name, **options)
