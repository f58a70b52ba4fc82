"""Training on many devices: published iterations, the papers' formulas, a simulated pipeline."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from costmodel import hardware
from costmodel.errors import CostmodelError, SizeError, UnavailableError
from costmodel.kernels import collective
from costmodel.layers._recompute import RECOMPUTE
from costmodel.layers.collective import Collective
from costmodel.layers.optimizer_step import OptimizerStep
from costmodel.models import load
from costmodel.parallel import (
    Cluster,
    Layout,
    Training,
    Transformer,
    largest_batch,
    longest_sequence,
    plan,
    stack_of,
)
from costmodel.parallel.limits import UNLIMITED, fits, largest
from costmodel.parallel.search import INTERLEAVES, MICRO_BATCHES, layouts
from costmodel.predict import predict

TABLE = pd.read_csv(Path(__file__).parents[1] / "golden" / "megatron_training.csv")
A100, H100 = "nvidia/a100-sxm-80gb", "nvidia/h100-sxm"
GIB = 2**30


def published(row, **more):
    """Return the training of one row of the table.

    Megatron-LM of 2022: fp16, gradients summed in fp32, stored scores, dropout.
    """
    model = Transformer(
        num_layers=row.layers,
        d_model=row.d_model,
        heads=row.heads,
        vocab=row.vocab,
        attention="dense",
        dropout=True,
        dtype="fp16",
    )
    layout = Layout(
        tensor=row.tensor,
        pipeline=row.pipeline,
        micro_batch=row.micro_batch,
        interleave=row.interleave,
        sequence_parallel=row.sequence_parallel,
        recompute=row.recompute,
    )
    cluster = Cluster(device=A100, devices=row.gpus)
    sizes = {"batch": row.global_batch, "seq": row.seq, "gradient_bytes": 4, **more}
    return Training(model=model, cluster=cluster, layout=layout, **sizes)


def small(**more):
    """Return a training of eight layers on eight devices."""
    model = Transformer(num_layers=8, d_model=1024, heads=16, vocab=32000)
    numbers = {"tensor": 2, "pipeline": 2, "data": 2, **more}
    cluster = Cluster(device=A100, devices=8)
    return Training(model=model, cluster=cluster, layout=Layout(**numbers), batch=32, seq=1024)


def test_errors_of_megatrons_published_iterations_are_below_calculons():
    """Korthikanti et al., Table 5, on which nothing is fitted. calculon: 3.65 % mean, 8.87 % worst."""
    found = np.array([float(published(row).seconds) for row in TABLE.itertuples()])
    errors = np.abs(found / TABLE["seconds"].to_numpy() - 1)
    assert errors.mean() <= 0.0365
    assert errors.max() <= 0.0887


def test_an_all_reduce_between_nodes_runs_at_the_rate_of_its_port():
    """In a ring, 2 (g − 1)/g of the buffer passes each device's port: Thakur et al. 2005, §4.4."""
    a100 = hardware.load(A100)
    ports = {width: Cluster(device=a100.replace(network=f"{width} GB/s"), devices=16) for width in (10, 40)}
    times = {w: float(c.collective_s("all-reduce", 1e10, 16, 1)) for w, c in ports.items()}
    sent, share = 2 * 15 / 16 * 1e10, collective.CONSTANTS["network_share"].default
    assert times[10] - times[40] == pytest.approx(sent * (1 / 10e9 - 1 / 40e9) / share, rel=1e-6)
    assert ports[10].machine.name == A100


def test_selective_recomputation_is_as_much_faster_than_full_as_published():
    """The paper's claim, with sequence parallelism: 29 % for 530B."""
    times = {(row.model, row.recompute): float(published(row).seconds) for row in TABLE.itertuples()}
    for model in TABLE["model"].unique():
        assert 1.2 < times[model, "full"] / times[model, "selective"] < 1.45


#: Korthikanti et al., Table 5: model FLOPs utilisation of the measured iterations, to 0.1 %.
PUBLISHED_UTILISATION = {"22B": 0.415, "175B": 0.514, "530B": 0.560, "1T": 0.563}


def test_utilisation_is_the_published_one_at_the_published_time():
    """The paper counts masked pairs too, half of all (appendix A): 72·BLsh²·(1 + s/6h + V/12hL)."""
    for row in TABLE[TABLE["recompute"] == "selective"].itertuples():
        training = published(row)
        at_their_time = float(training.utilisation * training.seconds) / row.seconds
        pairs, words = row.seq / (6 * row.d_model), row.vocab / (12 * row.d_model * row.layers)
        theirs = at_their_time * (1 + pairs + words) / (1 + pairs / 2 + words)
        # Times are stated to 0.01 s, 0.5 % of the shortest.
        assert theirs == pytest.approx(PUBLISHED_UTILISATION[row.model], abs=0.0025)
        tokens = float(training.tokens_per_second * training.seconds)
        assert tokens == pytest.approx(row.global_batch * row.seq)


def test_activation_memory_equals_the_papers_formula():
    """§4.2.3: the first stage keeps 34·sbh/t bytes for each of L layers.

    Interleaving multiplies that by 1 + (p − 1)/(pm).
    """
    for row in TABLE[TABLE["recompute"] == "selective"].itertuples():
        p, v = row.pipeline, row.interleave
        layer = 34 * row.seq * row.micro_batch * row.d_model / row.tensor
        expected = layer * row.layers * (1 + (p - 1) / (p * v) if v > 1 else 1)
        training = published(row)
        head = 0.0
        if p == 1:  # one stage also keeps the inputs of the last norm and logits, and fp32 scores
            tokens = row.seq * row.micro_batch
            head = tokens * (4 * row.d_model + 4 * row.vocab) / row.tensor
        assert float(training.memory["activations"]) == pytest.approx(expected + head, rel=1e-12)


def test_weights_gradients_and_state_are_18_bytes_per_parameter():
    """Figure 1 counts the layers only: 45.5625 GiB for 22B and 175B, 31.64 for 530B."""
    for row in TABLE[TABLE["recompute"] == "selective"].itertuples():
        training = published(row)
        held = sum(float(training.memory[kind]) for kind in ("weights", "gradients", "optimiser"))
        table = row.vocab * row.d_model / row.tensor
        norms = 4 * row.d_model * row.layers / row.pipeline
        layers = held / 18 - table - norms
        assert layers == pytest.approx(12 * row.layers * row.d_model**2 / row.gpus, rel=1e-12)
    assert 18 * 12 * 48 * 6144**2 / 8 / GIB == 45.5625


def test_gradients_in_fp32_take_twice_as_long_to_exchange_as_in_bf16():
    """The time of a ring's all-reduce is proportional to the buffer's bytes."""
    cluster = Cluster(device=A100, devices=64)
    layout, exchanged = Layout(data=64, overlap=False), {}
    for dtype in ("bf16", "fp32"):
        model = Transformer(num_layers=8, d_model=1024, heads=16, vocab=32000, dtype=dtype)
        training = Training(model=model, cluster=cluster, layout=layout, batch=64, seq=128)
        exchanged[dtype] = float(training.parts["gradients"])
    assert exchanged["fp32"] == pytest.approx(2 * exchanged["bf16"], rel=0.05)


def sharded(zero, micro_batches, *, overlap, seq=512, device=A100):
    """Return (exposed, reduce-scatter, all-gather [s], training) of 16 data-parallel copies with ZeRO."""
    model = Transformer(num_layers=8, d_model=1024, heads=16, vocab=32000)
    cluster = Cluster(device=device, devices=16)
    layout = Layout(data=16, zero=zero, overlap=overlap)
    training = Training(model=model, cluster=cluster, layout=layout, batch=16 * micro_batches, seq=seq)
    size = 2 * training.parameters
    scatter, gather = (
        float(cluster.collective_s(how, size, 16, cluster.node)) for how in ("reduce-scatter", "all-gather")
    )
    return float(training.parts["gradients"]), scatter, gather, training


@pytest.mark.parametrize("copies", [1, 2, 16])
def test_copies_without_zero_all_reduce_their_gradients_once_a_step(copies):
    cluster = Cluster(device=A100, devices=copies)
    model = Transformer(num_layers=8, d_model=1024, heads=16, vocab=32000)
    layout = Layout(data=copies, overlap=False)
    training = Training(model=model, cluster=cluster, layout=layout, batch=4 * copies, seq=512)
    reduced = float(cluster.collective_s("all-reduce", 2 * training.parameters, copies, 8))
    assert float(training.parts["gradients"]) == reduced
    assert (reduced > 0) == (copies > 1)


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
@pytest.mark.parametrize(
    ("zero", "scatters", "gathers"),
    [(1, lambda m: 1, lambda m: 1), (2, lambda m: m, lambda m: 1), (3, lambda m: m, lambda m: 2 * m)],
)
def test_zero_scatters_and_gathers_as_often_as_its_paper(zero, scatters, gathers, micro_batches):
    """Rajbhandari et al., §5 and §7.

    Stage 1 holds whole gradients, adds them up and scatters once per step; stages 2 and 3 scatter after each
    micro-batch. Weights are gathered once per step, in stage 3 in every pass.
    """
    found, scatter, gather, _ = sharded(zero, micro_batches, overlap=False)
    assert found == pytest.approx(scatters(micro_batches) * scatter + gathers(micro_batches) * gather)


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_all_but_the_first_layers_gather_hides_behind_compute(zero):
    """In each pass that gathers, nothing runs yet that could hide the gather before the first product."""
    passes = 4 if zero == 3 else 1
    found, _, gather, training = sharded(zero, 2, overlap=True, seq=32768)
    forward = float(training.parts["forward"]) / 2
    assert gather < forward
    assert found == pytest.approx(passes * gather / 8)
    slow = hardware.load(A100).replace(network="1 GB/s")
    exposed, scatter, gather, training = sharded(1, 1, overlap=True, device=slow)
    computed = float(training.parts["forward"] + training.parts["backward"])
    assert exposed == pytest.approx(scatter + gather - computed)


@pytest.mark.parametrize(("zero", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.88)])
def test_memory_with_zero_equals_its_papers_figure_1(zero, gigabytes):
    """Rajbhandari et al., Figure 1: 7.5B parameters of 16 bytes on 64 devices."""
    model = Transformer(num_layers=8, d_model=1024, heads=16, vocab=32000)
    training = Training(
        model=model,
        cluster=Cluster(device=A100, devices=64),
        layout=Layout(data=64, zero=zero),
        batch=64,
        seq=128,
    )
    held = sum(float(training.memory[kind]) for kind in ("weights", "gradients", "optimiser"))
    assert held / float(training.parameters) * 7.5 == pytest.approx(gigabytes, rel=0.005)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_memory_for_gathered_weights_equals_deepspeeds_estimate(zero):
    """4 bytes per number of the largest unit in stage 3 (weights and gradients in 16 bits), 2 in stage 2.

    `estimate_zero3_model_states_mem_needs` of DeepSpeed. A unit is a layer (Zhao et al., §3.2.1) of 12·d² and
    two norms, or the embedding table if that is larger. A single copy has nothing to gather. Devices that
    share layers and table have norms of their own.
    """
    for vocab, data, tensor in ((1000, 16, 1), (32000, 16, 1), (32000, 1, 1), (32000, 16, 2), (1000, 16, 2)):
        training = Training(
            model=Transformer(num_layers=8, d_model=1024, heads=16, vocab=vocab),
            cluster=Cluster(device=A100, devices=data * tensor),
            layout=Layout(data=data, tensor=tensor, zero=zero),
            batch=16,
            seq=128,
        )
        largest = max(12 * 1024**2 / tensor + 4 * 1024, vocab * 1024 / tensor)
        bytes_ = {0: 0, 1: 0, 2: 2, 3: 4}[zero]
        assert float(training.memory["gathered"]) == (bytes_ * largest if data > 1 else 0)


@pytest.mark.parametrize(("zero", "shares"), [(0, 1), (2, 1), (3, 4)])
def test_in_fp8_the_tables_of_words_keep_16_bits(zero, shares):
    """Micikevicius et al., arXiv 2209.05433, §4: fp8 is the format of products; ZeRO 3 shards both."""
    model = Transformer(num_layers=2, d_model=1024, heads=16, vocab=32000, tied=False, dtype="fp8")
    training = Training(
        model=model,
        cluster=Cluster(device="h200-sxm", devices=4),
        layout=Layout(data=4, zero=zero),
        batch=4,
        seq=128,
    )
    tables = 2 * 32000 * 1024
    layers = float(training.parameters) - tables
    assert float(training.memory["weights"]) == (layers + 2 * tables) / shares


def simulated(stages, micro_batches, forward, backward):
    """Return the time of a one-forward-one-backward pipeline (Narayanan et al., arXiv 2104.04473, §2.2).

    `forward` and `backward` list how long each stage takes.
    """
    done = {}
    free = [0.0] * stages
    queues = []
    for stage in range(stages):
        ahead = min(stages - stage, micro_batches)
        order = [("f", i) for i in range(ahead)]
        for i in range(micro_batches):
            order.append(("b", i))
            if ahead + i < micro_batches:
                order.append(("f", ahead + i))
        queues.append(order)
    while any(queues):
        for stage, queue in enumerate(queues):
            if not queue:
                continue
            kind, i = queue[0]
            before = {
                ("f", True): done.get(("f", stage - 1, i)) if stage else 0.0,
                ("b", True): done.get(("b", stage + 1, i))
                if stage + 1 < stages
                else done.get(("f", stage, i)),
            }[kind, True]
            if before is None:
                continue
            free[stage] = max(free[stage], before) + (forward if kind == "f" else backward)[stage]
            done[kind, stage, i] = free[stage]
            queue.pop(0)
    return max(free)


@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 4), (2, 4), (4, 4), (4, 16), (8, 8)])
def test_the_bubble_equals_that_of_a_simulated_pipeline(stages, micro_batches):
    model = Transformer(num_layers=8, d_model=1024, heads=16, vocab=32000)
    training = Training(
        model=model,
        cluster=Cluster(device=A100, devices=stages),
        layout=Layout(pipeline=stages),
        batch=micro_batches,
        seq=512,
    )
    parts = training.parts
    forward, backward = (float(parts[name]) / micro_batches for name in ("forward", "backward"))
    expected = simulated(stages, micro_batches, [forward] * stages, [backward] * stages)
    sends = float(parts["sends"]) / micro_batches * (stages - 1)
    found = float(parts["forward"] + parts["backward"] + parts["bubble"]) - sends
    assert found == pytest.approx(expected, rel=1e-12)


def uneven(layers, **numbers):
    """Return a training of equal layers in a pipeline, one sequence per micro-batch."""
    devices = int(np.prod([numbers.get(name, 1) for name in ("tensor", "pipeline", "data")]))
    return Training(
        model=Transformer(num_layers=layers, d_model=1024, heads=16, vocab=32000),
        cluster=Cluster(device=A100, devices=devices),
        layout=Layout(**numbers),
        batch=64,
        seq=512,
    )


@pytest.mark.parametrize(("layers", "stages"), [(5, 2), (7, 4), (13, 4), (61, 16)])
def test_uneven_stages_take_at_least_the_simulated_time_of_the_fullest(layers, stages):
    """Stages have ⌈L/p⌉ or ⌊L/p⌋ layers. The fullest idles only while the pipeline fills and drains."""
    training = uneven(layers, pipeline=stages)
    fullest = -(-layers // stages)
    assert float(training.stage_layers) == fullest
    one = [float(training.parts[name]) / 64 / fullest for name in ("forward", "backward")]
    has = [fullest if stage < layers % stages else fullest - 1 for stage in range(stages)]
    assert sum(has) == layers
    took = simulated(stages, 64, *([each * n for n in has] for each in one))
    sends = float(training.parts["sends"]) / 64 * (stages - 1)
    found = float(training.parts["forward"] + training.parts["backward"] + training.parts["bubble"]) - sends
    assert 64 * fullest * sum(one) <= took * (1 + 1e-12)
    assert took <= found * (1 + 1e-12)


@pytest.mark.parametrize("numbers", [{}, {"tensor": 2}, {"data": 2, "zero": 1}])
def test_uneven_layers_cost_as_much_as_the_next_even_number(numbers):
    """In time and memory of every device; utilisation counts only the model's own arithmetic."""
    for layers, even in ((13, 16), (15, 16), (16, 16)):
        odd, full = (uneven(n, pipeline=4, **numbers) for n in (layers, even))
        assert float(odd.seconds) == float(full.seconds)
        assert float(odd.memory_bytes) == float(full.memory_bytes)
        assert odd.model_flops <= full.model_flops


def test_more_layers_never_cost_less_and_more_stages_never_hold_more():
    steps = [uneven(n, pipeline=4) for n in range(4, 18)]
    for what in ("seconds", "memory_bytes", "parameters"):
        assert (np.diff([float(getattr(step, what)) for step in steps]) >= 0).all()
    for interleave in (1, 2):
        stages = [2, 4, 8]
        layers = [float(uneven(19, pipeline=p, interleave=interleave).stage_layers) for p in stages]
        assert layers == [interleave * -(-19 // (p * interleave)) for p in stages]
        assert (np.diff(layers) <= 0).all()


def test_arrays_of_layouts_give_the_same_values_as_single_layouts():
    numbers = np.array([[8, 1, 1, 1, 1], [2, 2, 2, 1, 1], [2, 2, 2, 4, 2], [1, 8, 1, 2, 1], [1, 1, 8, 4, 1]])
    names = ("tensor", "pipeline", "data", "micro_batch", "interleave")
    together = small(**dict(zip(names, numbers.T, strict=True)))
    for i, row in enumerate(numbers):
        alone = small(**dict(zip(names, row, strict=True)))
        assert float(together.seconds[i]) == float(alone.seconds)
        assert float(together.memory_bytes[i]) == float(alone.memory_bytes)


def test_full_recomputation_keeps_less_and_takes_longer():
    kept = [float(small(recompute=again).memory["activations"]) for again in ("none", "full")]
    times = [float(small(recompute=again).seconds) for again in ("none", "full")]
    assert kept[0] > 1.5 * kept[1]
    assert times[0] < times[1]


def test_parameters_and_flops_of_opt_350m_use_its_narrow_embedding():
    """Its tables are 512 wide, projected to 1,024 and back; its safetensors have 331,196,416 parameters.

    Left out are 2,050 positions and the biases: per layer 4 · 1,024 in attention and 5 · 1,024 after it.
    """
    training = Training(
        model=Transformer.of(load("opt-350m")),
        cluster=Cluster(device=A100, devices=1),
        layout=Layout(),
        batch=1,
        seq=128,
    )
    left_out = 2050 * 1024 + 24 * 9 * 1024
    assert float(training.parameters) == pytest.approx(331196416 - left_out, rel=1e-3)
    products = 24 * 12 * 1024**2 + 50272 * 512 + 2 * 512 * 1024
    scores = 24 * 4 * 1024 * 129 / 2  # QKᵀ and PV: a token's share of n(n + 1)/2 pairs
    assert training.model_flops == pytest.approx(3 * 128 * (2 * products + scores), rel=1e-3)


def test_gated_layers_have_one_more_product():
    """SwiGLU has three products where the plain layer has two of the same inner width."""
    plain, gated = (
        Training(
            model=Transformer(num_layers=2, d_model=512, heads=8, vocab=1000, gated=gated),
            cluster=Cluster(device=A100, devices=1),
            layout=Layout(),
            batch=1,
            seq=128,
        )
        for gated in (False, True)
    )
    assert float(gated.parameters - plain.parameters) == 2 * 512 * 2048


def test_the_longest_sequence_and_largest_batch_are_the_last_that_fit():
    """Of an A100's 80 GB, 8 % are left free unless told otherwise."""
    training = small()
    for told, free in (({}, 0.08), ({"margin": 0}, 0.0), ({"margin": 0.5}, 0.5)):
        n = longest_sequence(training, **told)
        last, more = (float(small_with(training, seq=seq).memory_bytes) for seq in (n, n + 1))
        assert last <= (1 - free) * 80e9 < more
        assert fits(small_with(training, seq=n), free)
        assert not fits(small_with(training, seq=n + 1), free)
    b = largest_batch(training)
    steps = int(training.micro_batches) * 2
    layouts = [Layout(tensor=2, pipeline=2, data=2, micro_batch=sequences) for sequences in (b, b + 1)]
    last, more = (
        float(small_with(training, batch=steps * layout.micro_batch, layout=layout).memory_bytes)
        for layout in layouts
    )
    assert last <= 0.92 * 80e9 < more


@pytest.mark.parametrize("most", [0, 1, 2, 3, 5, 64, 1000, 2**29 + 1])
def test_the_largest_that_fits_is_found_by_halving(most):
    assert largest(lambda n: n <= most) == most


def test_what_fits_at_any_size_is_not_looked_for_for_ever():
    assert largest(lambda n: True) == UNLIMITED


def test_where_not_one_token_fits_what_is_missing_is_said():
    model = Transformer(num_layers=96, d_model=12288, heads=96, vocab=51200)
    cluster = Cluster(device=A100, devices=1)
    one = Training(model=model, cluster=cluster, layout=Layout(), batch=1, seq=1)
    missing = float(one.memory_bytes) / 1e9 - 0.92 * 80
    with pytest.raises(
        CostmodelError, match=f"not even 1 token fits: the step needs {missing:.1f} GB more per device"
    ):
        longest_sequence(one)


def test_a_gradient_has_up_to_8_bytes():
    row = next(TABLE.itertuples())
    assert published(row, gradient_bytes=8).memory["gradients"] == 2 * published(row).memory["gradients"]
    for bytes_ in (0, -2, 8.5):
        with pytest.raises(SizeError, match="wanted gradient_bytes above 0 and up to 8"):
            published(row, gradient_bytes=bytes_)


def test_each_part_of_an_interleaved_stage_sends_on():
    """Narayanan et al., arXiv 2104.04473, §2.2.2: v parts of a stage send v times as much; alone nothing."""
    alone, plain, twice = (
        float(small(tensor=1, pipeline=p, data=8 // p, interleave=v).parts["sends"])
        for p, v in ((1, 1), (4, 1), (4, 2))
    )
    assert alone == 0 < plain
    assert twice == pytest.approx(2 * plain)


@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize(("tensor", "data", "near"), [(8, 1, 1), (4, 2, 1), (2, 8, 1), (4, 1, 2), (2, 2, 2)])
def test_a_device_sends_its_part_to_its_neighbour_which_gathers_the_parts(
    tensor, data, near, sequence_parallel
):
    """Narayanan et al., §4.1; of 32 devices in nodes of 8, the neighbour is `near` in the same node.

    With sequence parallelism the parts are positions, which stay apart (Korthikanti et al., §4.2.2).
    """
    model = Transformer(num_layers=8, d_model=1024, heads=16, vocab=32000)
    cluster, stages = Cluster(device=A100, devices=32), 32 // (tensor * data)
    layout = Layout(tensor=tensor, data=data, pipeline=stages, sequence_parallel=sequence_parallel)
    training = Training(model=model, cluster=cluster, layout=layout, batch=16, seq=512)
    whole = 2 * 512 * 1024  # bf16
    once = cluster.collective_s("send-receive", whole / tensor, 2, near)
    if not sequence_parallel:
        once = once + cluster.collective_s("all-gather", whole, tensor, 8)
    assert float(training.parts["sends"]) == pytest.approx(16 / data * 2 * float(once), rel=1e-12)


def test_a_narrower_embedding_is_projected_at_each_end():
    """A single stage has both projections; of two stages, the first and the last have one each."""
    sizes = {"num_layers": 2, "d_model": 64, "heads": 4, "vocab": 1000, "embedded": 32}
    for tied, tables in ((True, 1), (False, 2)):
        model = Transformer(**sizes, tied=tied)
        layers = 2 * (12 * 64**2 + 4 * 64)  # Narayanan et al., §5.1, and the norms' scales and shifts
        alone, halves = (
            Training(
                model=model,
                cluster=Cluster(device=A100, devices=stages),
                layout=Layout(pipeline=stages),
                batch=4,
                seq=16,
            )
            for stages in (1, 2)
        )
        of_layers = float(halves.parameters) - 1000 * 32 - 64 * 32
        assert 2 * of_layers == layers
        assert float(alone.parameters) == layers + tables * 1000 * 32 + 2 * 64 * 32


def small_with(training, **more):
    kept = {"model": training.model, "cluster": training.cluster, "layout": training.layout}
    return Training(**{**kept, "batch": training.batch, "seq": training.seq, **more})


def test_the_plan_fits_and_has_the_published_layout_near_its_best():
    row = next(r for r in TABLE.itertuples() if r.model == "175B" and r.recompute == "selective")
    asked = published(row)
    found = plan(asked.model, asked.cluster, batch=row.global_batch, seq=row.seq, gradient_bytes=4)
    assert (found["memory_bytes"] <= 0.92 * asked.capacity).all()
    assert found["seconds"].is_monotonic_increasing
    assert found["tensor"].max() == asked.cluster.node
    # Nothing is listed twice: what is split by positions, or sharded, is so over several devices.
    assert found.query("sequence_parallel and tensor == 1 or zero > 0 and data == 1").empty
    theirs = found.query(
        "tensor == 8 and pipeline == 8 and interleave == 3 and micro_batch == 1 and sequence_parallel"
        " and recompute == 'selective'"
    )
    assert len(theirs) == 1
    assert float(theirs["seconds"].iloc[0]) == pytest.approx(float(asked.seconds), rel=1e-12)
    assert float(theirs["seconds"].iloc[0]) < 1.35 * float(found["seconds"].iloc[0])


def test_a_plan_with_tiled_attention_lists_no_layout_twice():
    """There are no stored scores that `selective` would recompute: it is the same as `none`."""
    asked = small()
    found = plan(asked.model, asked.cluster, batch=32, seq=1024)
    again = replace(asked, layout=replace(asked.layout, recompute="selective"))
    assert (again.seconds, again.memory_bytes) == (asked.seconds, asked.memory_bytes)
    assert set(found["recompute"]) == {"none", "full"}


def test_rows_of_a_plan_have_the_figures_of_their_step():
    asked = small(data=4, pipeline=1, micro_batch=2)
    step = {"batch": 32, "seq": 1024, "gradient_bytes": 4.0, "rung": "bound"}
    training = replace(asked, cluster=Cluster(device=A100, devices=8, price=2.0), **step)
    found = plan(training.model, training.cluster, **step)
    (row,) = found.query(
        "tensor == 2 and data == 4 and micro_batch == 2 and not sequence_parallel and recompute == 'none'"
        " and zero == 0"
    ).to_dict("records")
    figures = {f"{name}_s": value for name, value in training.parts.items()}
    figures |= {f"{name}_bytes": value for name, value in training.memory.items()}
    names = ("seconds", "memory_bytes", "utilisation", "tokens_per_second", "energy_j", "cost")
    figures |= {name: getattr(training, name) for name in names}
    assert {name: row[name] for name in figures} == pytest.approx(
        {name: float(value) for name, value in figures.items()}, rel=1e-12
    )
    choices = ("pipeline", "interleave", "expert", "expert_tensor", "zero", "sequence_parallel", "recompute")
    assert set(found) == {*figures, *training.grounds, "tensor", "data", "micro_batch", *choices}


@pytest.mark.parametrize(
    ("device", "rung", "expected"),
    [
        (A100, "bound", "bound"),
        (A100, None, "calibrated"),
        (A100, "kernel", "kernel"),
        (H100, None, "kernel"),
    ],
)
def test_rows_of_a_plan_say_what_their_times_rest_on(device, rung, expected):
    """A100 has constants of its own, which the rung `kernel` leaves out; H100 has a related device's."""
    found = plan(small().model, Cluster(device=device, devices=2), batch=8, seq=1024, rung=rung)
    assert set(found["rung"]) == {expected}
    (text,) = set(found["constants_from"])
    origins = set(text.split(", "))
    if expected == "kernel":
        assert origins
        assert all(name.startswith("nvidia/") for name in origins - {device})
    else:
        assert origins == {{"bound": "none", "calibrated": "self"}[expected]}


@pytest.mark.parametrize("tensor", [1, 2])
def test_grounds_are_those_of_every_layer_that_is_timed(tensor):
    """Predicted one by one: every kind of layer in both passes, both ends, the optimiser step, exchanges."""
    model, cluster = stack_of(load("t5-base")), Cluster(device="amd/mi300x", devices=2)
    layout = Layout(tensor=tensor, data=2 // tensor, sequence_parallel=tensor > 1)
    between = [Collective()] if tensor == 1 else []
    every = [(layer, {}) for layer in (*model.ends(tensor), OptimizerStep(), *between)]
    for kind in model.kinds(tensor, tensor, sequence_parallel=tensor > 1):
        every += [(kind.model(direction), dict(kind.sizes)) for direction in ("fwd", "bwd")]
    origins = set()
    for layer, own in every:
        sizes = dict.fromkeys(layer.required, 1) | own
        origins |= set(predict(layer, cluster.machine, sizes).constants_from.split(", "))
    grounds = Training(model=model, cluster=cluster, layout=layout, batch=4, seq=512).grounds
    assert grounds["rung"].item() == "kernel"
    assert grounds["constants_from"].item() == ", ".join(sorted(origins))


def test_grounds_are_of_each_layout_and_of_no_second_prediction(monkeypatch):
    """MI300X's links were not measured: layouts that share a layer use a model's defaults.

    The other layout has two copies of the model, which sum their gradients.
    """
    training = Training(
        model=stack_of(load("t5-base")),
        cluster=Cluster(device="amd/mi300x", devices=2),
        layout=Layout(tensor=[1, 2], data=[2, 1], sequence_parallel=True),
        batch=4,
        seq=512,
    )
    assert training.seconds.shape == (2,)
    for module in ("stages", "training"):
        monkeypatch.setattr(f"costmodel.parallel.{module}.predict", None)
    monkeypatch.setattr(Cluster, "grounds", lambda _, name, rung: (str(rung or "kernel"), f"of {name}"))
    alone, shared = (set(origins.split(", ")) for origins in training.grounds["constants_from"])
    assert shared - alone == {"none"}
    assert alone - shared == {"of all-reduce"}


@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize(("zero", "exchanged"), [(0, {"all-reduce"}), (1, {"reduce-scatter", "all-gather"})])
def test_grounds_name_the_exchanges_of_copies_and_of_stages(monkeypatch, zero, exchanged, sequence_parallel):
    """Without sequence parallelism, what devices of one stage receive in parts is gathered."""
    monkeypatch.setattr(Cluster, "grounds", lambda _, name, rung: ("kernel", f"of {name}"))
    own = small(tensor=[1, 1, 2], pipeline=[1, 8, 4], data=[8, 1, 1], zero=zero)
    layout = replace(own.layout, sequence_parallel=sequence_parallel)
    found = replace(own, layout=layout).grounds["constants_from"]
    names = [{n[3:] for n in text.split(", ") if n.startswith("of ")} for text in found]
    gathered = set() if sequence_parallel else {"all-gather"}
    assert names == [exchanged, {"send-receive"}, {"send-receive", *gathered}]


EXCHANGES = ("all-reduce", "all-gather", "reduce-scatter", "send-receive")


@pytest.mark.parametrize("name", EXCHANGES)
@pytest.mark.parametrize("rung", ["bound", "kernel", "calibrated", None])
def test_exchanges_take_the_time_of_the_layer_collective_at_that_rung(name, rung):
    cluster = Cluster(device=A100, devices=16)
    expected = predict(Collective(collective=name), A100, m=2**20, n=2**10, devices=16, node=8, rung=rung)
    assert float(cluster.collective_s(name, 2**31, 16, 8, rung=rung)) == expected.seconds
    assert cluster.grounds(name, rung) == (expected.rung, expected.constants_from)


def test_a_plan_at_rung_bound_exchanges_gradients_at_the_links_stated_rate():
    """A ring sends 2 (g − 1)/g of a buffer, and A100's links 300 GB/s one way (its datasheet)."""
    training = replace(small(tensor=1, pipeline=1, data=8), rung="bound")
    training = replace(training, layout=replace(training.layout, overlap=False))
    sent = 2 * 7 / 8 * 2 * float(training.parameters)
    assert float(training.parts["gradients"]) == pytest.approx(sent / 300e9)


def test_an_exchange_at_rung_calibrated_wants_constants_of_the_devices_own_links():
    with pytest.raises(UnavailableError, match="no constants of its own for collective"):
        Cluster(device=H100, devices=8).collective_s("all-reduce", 1e9, 8, 8, rung="calibrated")
    assert Cluster(device=H100, devices=1).collective_s("all-reduce", 1e9, 1, 1, rung="calibrated") == 0


def test_energy_and_cost_follow_from_power_and_price():
    training = small_with(small(), cluster=Cluster(device=A100, devices=8, price=2.0))
    assert float(training.energy_j) == pytest.approx(8 * 400 * float(training.seconds))
    assert float(training.cost) == pytest.approx(16 * float(training.seconds) / 3600)
    assert small().cost is None
    tpu = Cluster(device="google/tpu-v5p", devices=8)
    assert tpu.machine.tdp_w is None
    assert np.isnan(small_with(small(), cluster=tpu).energy_j)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"tensor": 4}, "is 16, and the cluster has 8 devices"),
        (
            {"tensor": 1, "pipeline": 8, "interleave": 2, "data": 1},
            "8 layers over .* = 16 leave .* up to 8",
        ),
        ({"tensor": 2, "micro_batch": 3}, "32 sequences of the batch .* = 6 .* 4 or 8 would"),
        ({"tensor": 1, "pipeline": 1, "data": 8, "micro_batch": 3}, "= 24 .* 16 or 32 would"),
        ({"zero": 4}, "wanted zero to be 0, 1, 2 or 3, got 4"),
        ({"recompute": "some"}, "unknown recompute 'some' of a layout"),
        ({"expert": 2}, "expert is 2, but the model is no mixture of experts; expert = 1 would do"),
        ({"expert_tensor": [1, 2]}, "expert_tensor is 2, but the model is no mixture"),
        # 32 sequences over 2 copies are one micro-batch of 16 each.
        ({"interleave": 2, "micro_batch": 16}, "multiple of the pipeline's 2 stages, got 1; another batch"),
    ],
)
def test_impossible_layouts_are_refused_with_what_would_do(numbers, message):
    with pytest.raises(CostmodelError, match=message):
        small(**numbers)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"tensor": 8, "pipeline": 1, "data": 3}, {"tensor": 8, "pipeline": 2, "data": 3}),
        ({"tensor": 8, "pipeline": 1, "data": 3}, {"tensor": 3, "pipeline": 1, "data": 8}),
        ({"pipeline": 8, "data": 3}, {"pipeline": 12, "data": 2}),
        ({"pipeline": 4, "data": 6, "interleave": 2}, {"pipeline": 4, "data": 6, "interleave": 3}),
        ({"data": 24, "micro_batch": 2}, {"data": 24, "micro_batch": 3}),
        ({"data": 24, "micro_batch": 2}, {"data": 24, "micro_batch": 1, "expert": 2}),
        # 12 sequences per copy: 12 micro-batches are three rounds of four stages, 3 are none.
        (
            {"pipeline": 6, "data": 4, "micro_batch": 1, "interleave": 1},
            {"pipeline": 2, "data": 12, "micro_batch": 4, "interleave": 2},
        ),
    ],
)
def test_a_layout_that_cannot_run_is_refused_among_others_as_it_is_alone(good, bad):
    """Three layouts at once, the bad one in any place."""
    model = Transformer(num_layers=8, d_model=1024, heads=8, vocab=32000)

    def refused(*several):
        names = {name for one in several for name in one}
        numbers = {name: [one.get(name, 1) for one in several] for name in names}
        with pytest.raises(CostmodelError) as error:
            Layout(**numbers).check(model, 48, 24)
        return str(error.value)

    Layout(**good).check(model, 48, 24)
    alone = refused(bad)
    assert {refused(bad, good, good), refused(good, bad, good), refused(good, good, bad)} == {alone}


@pytest.mark.parametrize(
    ("batch", "copies", "near"), [(36, 8, "6 or 9"), (2**40 - 1, 16, "15 or 17"), (7, 8, "7")]
)
def test_the_nearest_numbers_that_divide_a_batch_are_named_however_large_it_is(batch, copies, near):
    """2⁴⁰ − 1 = (2²⁰ − 1)(2²⁰ + 1) = 3·5²·11·31·41 · 17·61681."""
    model = Transformer(num_layers=8, d_model=1024, heads=8, vocab=32000)
    with pytest.raises(CostmodelError, match=f"= {copies} does not divide evenly; {near} would$"):
        Layout(data=copies).check(model, batch, copies)


def test_the_plans_layouts_are_all_that_can_run():
    """Every combination is tried, 4 devices in nodes of 2, and what `Layout.check` refuses left out.

    Left out too are those that are the same as another (positions split over a single device, copies sharded
    that are one, parts of a single stage), tensor parallelism across nodes, and gradients scattered in a
    pipeline, which no framework does.
    """
    # Stored scores, which `selective` recomputes.
    model = Transformer(num_layers=4, d_model=64, heads=4, vocab=128, attention="dense")
    cluster, batch, sizes = Cluster(device=A100, devices=4, node=2), 8, (1, 2, 4)
    numbers = ("tensor", "pipeline", "data", "micro_batch", "interleave")
    kinds = ("sequence_parallel", "recompute", "zero")

    def runs(layout):
        try:
            layout.check(model, batch, cluster.devices)
        except CostmodelError:
            return False
        return not (
            layout.tensor > 2
            or (layout.sequence_parallel and layout.tensor == 1)
            or (layout.zero > 0 and layout.data == 1)
            or (layout.zero > 1 and layout.pipeline > 1)
            or (layout.interleave > 1 and layout.pipeline == 1)
        )

    choices = (sizes, sizes, sizes, MICRO_BATCHES, INTERLEAVES, (False, True), RECOMPUTE, (0, 1, 2, 3))
    every = (Layout(**dict(zip((*numbers, *kinds), one, strict=True))) for one in itertools.product(*choices))
    wanted = {tuple(getattr(one, name) for name in (*numbers, *kinds)) for one in every if runs(one)}
    found = [
        (*row[: len(numbers)], *(getattr(some, name) for name in kinds))
        for some in layouts(model, cluster, batch)
        for row in zip(*some.numbers, strict=True)
    ]
    assert len(found) == len(wanted) > 50
    assert set(found) == wanted


@pytest.mark.parametrize(
    ("sizes", "device", "devices", "mostly", "do"),
    [
        (
            {"num_layers": 96, "d_model": 12288, "heads": 96, "vocab": 51200},
            A100,
            8,
            "optimiser",
            "64 devices would do",
        ),
        # One head cannot be shared, and each copy gathers the whole table of words: 34 GB with its gradients.
        (
            {"num_layers": 1, "d_model": 8192, "heads": 1, "vocab": 2**20, "dtype": "fp16"},
            "nvidia/t4",
            32,
            "gathered",
            "not even 512 devices would do, but more memory per device",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_what_is_missing(sizes, device, devices, mostly, do):
    """Of the layout that needs least; how many devices would do is tried."""
    model, cluster = Transformer(**sizes), Cluster(device=device, devices=devices)
    steps = [
        Training(model=model, cluster=cluster, layout=layout, batch=16 * devices, seq=16)
        for layout in layouts(model, cluster, 16 * devices)
    ]
    least = min(steps, key=lambda step: step.memory_bytes.min())
    at = int(np.argmin(least.memory_bytes))
    needed, room = float(least.memory_bytes[at]), 0.92 * least.capacity
    with pytest.raises(CostmodelError) as refusal:
        plan(model, cluster, batch=16 * devices, seq=16)
    cut = ", ".join(
        f"{name} {getattr(least.layout.numbers, name)[at]:.0f}" for name in ("tensor", "pipeline", "data")
    )
    assert str(refusal.value) == (
        f"nothing fits: the smallest layout ({cut}, recompute {least.layout.recompute}, "
        f"zero {least.layout.zero}) takes {needed / 1e9:.1f} GB of {room / 1e9:.1f} GB per device, "
        f"{(needed - room) / 1e9:.1f} GB too much, most of it {mostly}; {do}"
    )
    if enough := re.match(r"(\d+) devices", do):
        assert len(plan(model, Cluster(device=device, devices=int(enough[1])), batch=16 * devices, seq=16))
    assert max(least.memory, key=lambda kind: (least.memory[kind] + 0 * least.memory_bytes)[at]) == mostly


def test_a_batch_that_no_layout_divides_is_refused_with_what_does_not_divide():
    model = Transformer(num_layers=2, d_model=1024, heads=16, vocab=32000)
    with pytest.raises(CostmodelError, match=r"no layout of 7 devices, with up to 2 .* a batch of 4 evenly"):
        plan(model, Cluster(device=A100, devices=7), batch=4, seq=128)


def test_impossible_clusters_are_refused():
    for wrong in ({"devices": 0}, {"devices": 2.5}, {"devices": 8, "node": 0}):
        with pytest.raises(CostmodelError, match=r"size (devices|node): wanted a whole number of at least 1"):
            Cluster(device="h100-sxm", **wrong)
    with pytest.raises(CostmodelError, match="Cluster: wanted devices to be a number, got '8'"):
        Cluster(device="h100-sxm", devices="8")
    for price in (-1.0, float("nan"), float("inf")):
        with pytest.raises(CostmodelError, match="price of at least 0"):
            Cluster(device="h100-sxm", devices=8, price=price)
    with pytest.raises(CostmodelError, match="12 devices do not fill nodes of 8; 8 or 16 would"):
        Cluster(device=A100, devices=12)


def test_copies_of_a_model_wider_than_a_node_are_each_in_another_node():
    """Of devices that share a layer over two nodes of 8, a node holds half of a copy."""
    cluster = Cluster(device=A100, devices=64)
    for name in ("all-reduce", "reduce-scatter", "all-gather"):
        half, one, two = (cluster.collective_s(name, 1e9, 4, node) for node in (8 / 16, 1, 2))
        assert half == one > two


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch": 0}, "size batch: wanted a whole number of at least 1, got 0"),
        ({"batch": 1.5}, "size batch: wanted a whole number of at least 1, got 1.5"),
        ({"batch": float("nan")}, "size batch: .* got nan"),
        ({"seq": [64, 128]}, r"Training: wanted seq to be a number, got \[64, 128\]"),
        ({"gradient_bytes": 0}, "wanted gradient_bytes above 0 .* got 0"),
    ],
)
def test_impossible_sizes_of_a_step_are_refused(given, message):
    with pytest.raises(SizeError, match=message):
        small_with(small(), **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"heads": 0}, "size heads: wanted a whole number of at least 1, got 0"),
        ({"num_layers": 0}, "size num_layers: wanted .* got 0"),
        ({"vocab": -1}, "size vocab: wanted .* got -1"),
        ({"d_ff": 0}, "size d_ff: wanted .* got 0"),
        ({"embedded": 0}, "size embedded: wanted .* got 0"),
        ({"heads": 4, "kv_heads": 3}, "heads must be a multiple of kv_heads, got 4 and 3"),
    ],
)
def test_impossible_sizes_of_a_model_are_refused(given, message):
    with pytest.raises(SizeError, match=message):
        Transformer(**{"num_layers": 8, "d_model": 1024, "heads": 16, "vocab": 32000, **given})


@pytest.mark.parametrize("numbers", [{"tensor": 0}, {"data": 0.5}, {"pipeline": -1}, {"micro_batch": "4"}])
def test_impossible_numbers_of_a_layout_are_refused(numbers):
    (name,) = numbers
    with pytest.raises(SizeError, match=f"layout: {name}: wanted a whole number of at least 1, got"):
        Layout(**numbers)


def test_numbers_of_a_layout_have_at_most_40_bits():
    assert Layout(data=2**40).devices == 2**40
    with pytest.raises(SizeError, match=f"layout: data: wanted at most {2**40}, got {2**40 + 1}"):
        Layout(data=2**40 + 1)


@pytest.mark.parametrize("margin", [1.5, 1, -0.1, float("nan")])
def test_a_margin_outside_0_to_1_is_refused(margin):
    training = small()
    wanted = "margin: wanted a part of the memory, at least 0 and below 1, got"
    with pytest.raises(SizeError, match=wanted):
        plan(training.model, training.cluster, batch=32, seq=1024, margin=margin)
    with pytest.raises(SizeError, match=wanted):
        longest_sequence(training, margin=margin)


def interleaved(stages, parts, micro_batches):
    """Run Megatron-LM's interleaved schedule; return the most activations held per stage, in whole stages.

    A stage's k-th forward is of part (k mod p·v) // p: p micro-batches pass a part before the next part
    starts. Backward is the same with the parts reversed. It starts on stage i after 2 (p − i − 1) + (v − 1) p
    forwards, or after p − i − 1 without interleaving.
    """
    whole = micro_batches * parts

    def of(k, part):
        block, k = divmod(k, stages * parts)
        return part(k // stages), block * stages + k % stages

    queues = []
    for stage in range(stages):
        behind = stages - stage - 1
        ahead = min(whole, behind if parts == 1 else 2 * behind + (parts - 1) * stages)
        order = [("f", *of(k, lambda part: part)) for k in range(ahead)]
        for k in range(whole):
            if ahead + k < whole:
                order.append(("f", *of(ahead + k, lambda part: part)))
            order.append(("b", *of(k, lambda part: parts - 1 - part)))
        queues.append(order)
    done, holds, most = set(), [0] * stages, [0] * stages
    while any(queues):
        for stage, queue in enumerate(queues):
            while queue:
                kind, part, i = queue[0]
                at = part * stages + stage
                if kind == "f":
                    before = ("f", at - 1, i) if at else None
                else:
                    before = ("b", at + 1, i) if at + 1 < stages * parts else ("f", at, i)
                if before is not None and before not in done:
                    break
                done.add((kind, at, i))
                holds[stage] += 1 if kind == "f" else -1
                most[stage] = max(most[stage], holds[stage])
                queue.pop(0)
    return [held / parts for held in most]


@pytest.mark.parametrize(
    ("stages", "parts", "micro_batches"),
    [(2, 1, 1), (4, 1, 16), (2, 2, 2), (4, 2, 4), (4, 2, 8), (2, 4, 8), (8, 1, 8), (4, 3, 4), (3, 2, 9)],
)
@pytest.mark.parametrize("vocab", [16, 2**20])
def test_activations_in_flight_equal_those_of_a_simulated_pipeline(stages, parts, micro_batches, vocab):
    """With few words the first stage holds most, with a million of them the last, which has the logits."""
    model = Transformer(num_layers=24, d_model=64, heads=1, vocab=vocab)
    training = Training(
        model=model,
        cluster=Cluster(device=A100, devices=stages),
        layout=Layout(pipeline=stages, interleave=parts),
        batch=micro_batches,
        seq=512,
    )
    first, *_, last = interleaved(stages, parts, micro_batches)
    stage = 24 / stages * 512 * (34 * 64 - 2 * 64 + 4)  # no dropout masks; an fp32 statistic per row
    head = 512 * (2 * 2 * 64 + 4 * vocab)
    expected = max(first * stage, last * stage + head)
    assert float(training.memory["activations"]) == pytest.approx(expected, rel=1e-12)


def test_the_bound_is_that_of_every_part():
    """At rung `bound` no kernel takes time to start, and each runs at full rates."""
    bound, usual = replace(small(), rung="bound").parts, small().parts
    for name in ("forward", "backward", "head", "optimiser"):
        assert 0 < float(bound[name]) < float(usual[name])


def test_in_fp32_there_is_no_master_weight():
    """Two moments of 4 bytes; in 16 bits also a weight in fp32 (Rajbhandari et al., §3.1: K = 12)."""
    for dtype, bytes_ in (("fp32", 8), ("bf16", 12)):
        model = Transformer(num_layers=8, d_model=1024, heads=16, vocab=32000, dtype=dtype)
        training = replace(small(), model=model)
        assert float(training.memory["optimiser"]) == bytes_ * float(training.parameters)


def test_seq_kv_is_refused_without_an_encoder():
    with pytest.raises(SizeError, match="training: seq_kv is an encoder's length, got 16, but"):
        replace(small(), seq_kv=16)


def test_sizes_of_numpy_do_not_overflow():
    cluster = Cluster(device=A100, devices=np.int8(8), node=np.int8(8), price=np.int8(100))
    narrow = replace(small(), batch=np.int8(64), seq=np.int8(64), cluster=cluster)
    plain = replace(small(), batch=64, seq=64, cluster=Cluster(device=A100, devices=8, price=100))
    assert narrow.tokens_per_second == plain.tokens_per_second
    assert (narrow.energy_j, narrow.cost) == (plain.energy_j, plain.cost)


def test_sizes_of_a_model_in_numpy_do_not_overflow():
    """GPT-3's feed-forward layer is 4 · 12288 = 49152 wide, more than 16 bits hold."""
    sizes = {"num_layers": 2, "d_model": 12288, "heads": 96, "vocab": 32000, "embedded": 8192}
    narrow = Transformer(**{name: np.int16(size) for name, size in sizes.items()})
    assert narrow.sizes["d_ff"] == 4 * 12288
    assert narrow.projected == 12288 * 8192
