"""Training iterations of DistFlashAttn's paper: predicted within
25 %, and in the paper's order of systems.
"""

import pandas as pd
import pytest

from costmodel import hardware
from costmodel.validation import long_context as lc
from costmodel.validation import published, whole_models


@pytest.fixture(scope="module")
def compared(golden):
    """Return the published iterations with their predictions."""
    return lc.compare(pd.read_csv(golden / "long_context.csv"))


@pytest.fixture(scope="module")
def golden(request):
    """Return the folder of figures with their sources."""
    return request.config.rootpath / "tests" / "golden"


@pytest.fixture(scope="module")
def times():
    """Return iteration times of every system on eight devices, by model and system."""
    device = hardware.load(lc.DEVICE).replace(network=lc.NETWORK)
    return {
        name: {
            system: lc.iteration(system, lc.MODELS[name], device, 65536, 8)[0]
            for system in ("megatron", *lc.SYSTEMS)
        }
        for name in ("LLaMA-7B", "LLaMA-33H")
    }


def test_golden_rows_are_the_published_ones(shared, golden):
    read = lc.read(published.printed(shared / "reference"))
    kept = pd.read_csv(golden / "long_context.csv")
    pd.testing.assert_frame_equal(kept, read[list(kept.columns)], check_dtype=False)
    assert read["system"].value_counts().to_dict() == {
        "dist-flash-attention": 20, "megatron": 18, "ring-self-attention": 2,
    }  # fmt: skip


@pytest.mark.parametrize("system", ["dist-flash-attention", "megatron"])
def test_predicted_iterations_are_within_25_per_cent_of_the_measured(compared, system):
    """Nothing is fitted on these rows: 8 and 16 A100, 32K to 512K tokens."""
    error = compared.loc[compared["system"] == system, "error"]
    assert error.abs().max() < 0.25
    assert error.abs().median() < 0.08


def test_ring_self_attention_is_predicted_faster_than_its_code_was(compared):
    """The code does not reach what its kernels could: predicted at 0.39 and 0.64 of the measured time."""
    error = compared.loc[compared["system"] == "ring-self-attention", "error"]
    assert ((error < 0) & (error > -0.7)).all()


def test_balanced_schedule_is_faster_wherever_it_was_measured_so(compared):
    """Every published pair with the same model, length and number of devices."""
    keys = ["where", "model", "devices", "seq"]
    table = compared.pivot_table(index=keys, columns="system", values=["latency_s", "seconds"])
    for other in ("megatron", "ring-self-attention"):
        pairs = table.xs(other, axis=1, level="system").dropna()
        ours = table.xs("dist-flash-attention", axis=1, level="system").loc[pairs.index]
        faster = pairs / ours
        assert (faster["latency_s"] > 1).all()
        # The closest: 131072 tokens of LLaMA-7B on two nodes, measured 1.12, predicted 1.01.
        assert (faster["seconds"] > 1).all()


@pytest.mark.parametrize("model", ["LLaMA-7B", "LLaMA-33H"])
def test_systems_are_in_the_papers_order(times, model):
    """arXiv 2310.03294: 4.45–5.64 times Ring Self-Attention, 1.67 Ring Attention, 1.26–1.88 Ulysses."""
    faster = {
        system: seconds / times[model]["dist-flash-attention"] for system, seconds in times[model].items()
    }
    assert faster["ring-self-attention"] > 3
    assert faster["ring-attention"] == pytest.approx(1.67, rel=0.05)
    assert 1.05 < faster["ulysses"] < faster["ring-attention"] < faster["ring-self-attention"]
    assert 1.2 < faster["megatron"] < 1.6


def test_uneven_heads_cost_systems_that_split_by_heads(times):
    """33 heads on 8 devices take 5 each, as many as 40 would; split by sequence they cost 33/32."""
    more = {system: times["LLaMA-33H"][system] / seconds for system, seconds in times["LLaMA-7B"].items()}
    assert more["megatron"] > 1.1
    assert more["ulysses"] > 1.1
    assert more["dist-flash-attention"] < 1.05


def test_llama_7b_has_6_74_billion_parameters():
    """Touvron et al., Table 2: 6.74·10⁹; here without norms."""
    assert lc.MODELS["LLaMA-7B"].parameters == pytest.approx(6.738e9, rel=1e-3)


def test_page_of_whole_models_has_these_iterations(shared, compared):
    page = whole_models.table(shared / "reference")
    page = page[page["source"].str.startswith("DistFlashAttn")]
    assert page["predicted"].tolist() == pytest.approx(compared["seconds"].tolist())
    assert set(page["rung"]) <= {"kernel", "calibrated"}
