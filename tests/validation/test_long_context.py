"""Training iterations of DistFlashAttn's paper: within 25 %, and the systems in the paper's order."""

import pandas as pd
import pytest

from costmodel import hardware
from costmodel.errors import TableError
from costmodel.validation import long_context as lc


@pytest.fixture(scope="module")
def compared(golden):
    """The published iterations with their predictions."""
    return lc.compare(pd.read_csv(golden / "long_context.csv"))


@pytest.fixture(scope="module")
def golden(request):
    """Return the folder of figures with their sources."""
    return request.config.rootpath / "tests" / "golden"


@pytest.fixture(scope="module")
def times():
    """Iteration times of every system on eight devices, by model and system."""
    device = hardware.load(lc.DEVICE).replace(network=lc.NETWORK)
    return {
        name: {
            system: lc.iteration_s(system, lc.MODELS[name], device, 65536, 8)
            for system in ("megatron", *lc.SYSTEMS)
        }
        for name in ("LLaMA-7B", "LLaMA-33H")
    }


def test_the_golden_rows_are_the_published_ones(shared, golden):
    read = lc.read(shared / "reference")
    kept = pd.read_csv(golden / "long_context.csv")
    pd.testing.assert_frame_equal(kept, read[list(kept.columns)], check_dtype=False)
    assert read["system"].value_counts().to_dict() == {
        "dist-flash-attention": 20, "megatron": 18, "ring-self-attention": 2,
    }  # fmt: skip


@pytest.mark.parametrize("system", ["dist-flash-attention", "megatron"])
def test_iterations_take_what_was_measured(compared, system):
    """Nothing is fitted on these rows: 8 and 16 A100, 32K to 512K tokens."""
    error = compared.loc[compared["system"] == system, "error"]
    assert error.abs().max() < 0.25
    assert error.abs().median() < 0.08


def test_ring_self_attention_is_far_slower_and_more_so_than_predicted(compared):
    """Its code is not what its kernels could do: predicted at 0.39 and 0.64 of the time."""
    error = compared.loc[compared["system"] == "ring-self-attention", "error"]
    assert ((error < 0) & (error > -0.7)).all()


def test_the_balanced_schedule_wins_over_each_system_where_the_paper_says(compared):
    """Every published pair of one model, length and number of devices: who is faster."""
    keys = ["where", "model", "devices", "seq"]
    table = compared.pivot_table(index=keys, columns="system", values=["latency_s", "seconds"])
    for other in ("megatron", "ring-self-attention"):
        pairs = table.xs(other, axis=1, level="system").dropna()
        ours = table.xs("dist-flash-attention", axis=1, level="system").loc[pairs.index]
        faster = pairs / ours
        assert (faster["latency_s"] > 1).all()
        # Nearest call: 131072 tokens of LLaMA-7B on two nodes, measured 1.12, predicted 1.01.
        assert (faster["seconds"] > 1).all()


@pytest.mark.parametrize("model", ["LLaMA-7B", "LLaMA-33H"])
def test_the_order_of_the_systems_is_the_papers(times, model):
    """arXiv 2310.03294: 4.45–5.64 times Ring Self-Attention, 1.67 Ring Attention, 1.26–1.88 Ulysses."""
    faster = {
        system: seconds / times[model]["dist-flash-attention"] for system, seconds in times[model].items()
    }
    assert faster["ring-self-attention"] > 3
    assert faster["ring-attention"] == pytest.approx(1.67, rel=0.05)
    assert 1.05 < faster["ulysses"] < faster["ring-attention"] < faster["ring-self-attention"]
    assert 1.2 < faster["megatron"] < 1.6


def test_heads_that_do_not_share_out_cost_those_who_cut_by_heads(times):
    """33 heads on 8 devices: 5 each, as of 40. Cutting the sequence they cost 33/32."""
    more = {system: times["LLaMA-33H"][system] / seconds for system, seconds in times["LLaMA-7B"].items()}
    assert more["megatron"] > 1.1
    assert more["ulysses"] > 1.1
    assert more["dist-flash-attention"] < 1.05


def test_models_are_as_large_as_their_names():
    """6.74·10⁹ (Touvron et al., Table 2), norms apart."""
    assert lc.MODELS["LLaMA-7B"].parameters == pytest.approx(6.738e9, rel=1e-3)


def test_a_folder_without_iterations_is_one_clear_line(tmp_path):
    with pytest.raises(TableError, match="cannot read the published runtimes"):
        lc.read(tmp_path)
