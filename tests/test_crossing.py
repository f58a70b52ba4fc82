"""Crossovers: exact sizes, checked by algebra and by trying every size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import costmodel as cm
from costmodel.crossing import _apart, _changes, _points
from costmodel.errors import CostmodelError, SizeError, UnknownNameError

HEADS = {"batch": 1, "heads": 8, "head_dim": 64}
FLOPS = {"over": "seq", "of": "flops", "batch": 1}


def changes(order, limit):
    """Return the sizes up to `limit` at which the sign of `order` changes, and the signs between."""
    points = _points(limit, 64)
    return _changes(order, points, order(points))


@given(d=st.integers(1, 64).map(lambda x: 8 * x))
@settings(max_examples=15)
def test_attention_needs_fewer_flops_than_an_lstm_up_to_4_d(d):
    # LSTM: 2·4·(d + d)·d·n; attention's core: 4·n²·d. Equal at n = 4·d.
    found = cm.crossover(cm.LSTM(), cm.DenseAttention(), hidden=d, heads=8, head_dim=d // 8, **FLOPS)
    assert (found.size, found.answer) == (4 * d, 4 * d)
    assert found.cheaper == ("dense-attention", "lstm")
    assert found.rung is None


def test_causal_attention_crosses_where_its_exact_pairs_do():
    # n(n + 1)/2 pairs: 2·(n + 1)·n·d = 16·d²·n at n = 8·d − 1, where the first order ends.
    found = cm.crossover(cm.LSTM(), cm.TiledAttention(causal=True), hidden=512, heads=8, head_dim=64, **FLOPS)
    assert found.size == 8 * 512 - 1


def test_layers_that_never_cross_answer_never_or_always():
    one, two = cm.LSTM(), cm.LSTM(bidirectional=True)
    always = cm.crossover(one, two, hidden=64, **FLOPS)
    assert always.answer == "always"
    assert str(always).startswith(f"flops: {always.first} always needs less, for every seq up to")
    never = cm.crossover(two, one, hidden=64, **FLOPS)
    assert never.answer == "never"
    assert str(never).startswith(f"flops: {never.first} never needs less, for every seq up to")
    assert str(never).endswith(f": {never.second} does")
    same = cm.crossover(cm.DenseAttention(), cm.TiledAttention(), **FLOPS, heads=8, head_dim=64)
    assert (same.answer, same.cheaper) == ("never", ("neither",))
    assert str(same).startswith("flops: dense-attention never needs less")
    assert str(same).endswith(": both need as much")


def test_attention_has_less_depth_from_two_tokens_on():
    found = cm.crossover(cm.LSTM(), cm.TiledAttention(), over="seq", of="depth", hidden=64, **HEADS)
    # n steps against one: a tie at n = 1, then attention.
    assert found.cheaper == ("neither", "tiled-attention")
    assert found.size == 2
    assert str(found) == "depth: the same below seq = 2, less for tiled-attention from 2 on"


def test_counts_take_only_memory_sizes_from_a_device():
    """T4 has no bf16: times are refused there, counts are not."""
    sizes = {"over": "seq", "hidden": 512, **HEADS}
    layers = (cm.LSTM(), cm.TiledAttention(dtype="bf16"))
    found = cm.crossover(*layers, "t4", of="flops", **sizes)
    assert found == cm.crossover(*layers, of="flops", **sizes)
    assert cm.crossover(*layers, "t4", of="hbm_bytes", **sizes).answer == "never"  # one pass, and no weights
    with pytest.raises(CostmodelError, match="bf16"):
        cm.crossover(*layers, "t4", **sizes)


def test_counts_need_no_device():
    """Without the chip's memory, weights are assumed to be read once, and the answer says so."""
    sizes = {"over": "seq", "of": "hbm_bytes", "hidden": 64, **HEADS}
    free = cm.crossover(cm.LSTM(), cm.DenseAttention(), **sizes)
    assert free.assumed in str(free)
    kept, again = (cm.LSTM(persistent=persistent) for persistent in (True, False))
    for lstm, onchip in ((kept, 2**30), (again, 1)):
        found = cm.crossover(lstm, cm.DenseAttention(), **sizes)
        assert found.assumed is None  # nothing of it depends on the chip
        with_chip = cm.crossover(cm.LSTM(), cm.DenseAttention(), onchip=onchip, **sizes)
        assert (with_chip.assumed, with_chip.size) == (None, found.size)
        assert (found.size == free.size) == (lstm is kept)
    assert cm.crossover(cm.LSTM(), cm.DenseAttention(), **sizes | {"of": "flops"}).assumed is None
    on_t4 = cm.crossover(cm.LSTM(), cm.DenseAttention(), "t4", **sizes)
    assert (on_t4.assumed, on_t4.size) == (None, free.size)


def test_link_bytes_cross_where_the_papers_formulas_do():
    """Of n·d numbers: 4 (P − 1)/P² for Ulysses (four all-to-alls), 2 (P − 1)/P for a ring of K and V."""
    sizes = {"seq": 8192, "over": "devices", "of": "link_bytes", **HEADS}
    found = cm.crossover(cm.layers.get("ring-attention")(), cm.layers.get("ulysses")(), limit=8, **sizes)
    assert (found.size, found.cheaper) == (3, ("neither", "ulysses"))
    alone = cm.crossover(cm.layers.get("ulysses")(), cm.DenseAttention(), limit=8, **sizes)
    assert alone.cheaper[-1] == "dense-attention"  # which sends nothing


@pytest.mark.parametrize("rung", ["bound", "kernel"])
def test_predicted_times_change_their_order_at_each_crossover(rung):
    layers = (cm.GRU(), cm.DenseAttention())
    sizes = {"batch": 8, "hidden": 512, "heads": 8, "head_dim": 64}
    found = cm.crossover(*layers, "h200-sxm", over="seq", rung=rung, limit=2**16, **sizes)
    assert (found.rung, found.of) == (rung, "seconds")
    for size in found.sizes:
        seq = np.array([size - 1, size])
        gru, attention = (
            cm.predict(
                layer,
                "h200-sxm",
                rung=rung,
                seq=seq,
                **{n: v for n, v in sizes.items() if n in layer.sizes()},
            ).seconds
            for layer in layers
        )
        before, after = np.sign(gru - attention)
        assert before != after


@given(signs=st.lists(st.sampled_from([-1.0, 1.0]), min_size=64, max_size=64))
@settings(max_examples=50)
def test_every_crossover_among_the_first_64_sizes_is_found(signs):
    """Every size up to 64 is evaluated."""
    order = np.array(signs)
    sizes, sequence = changes(lambda n: order[n.astype(int) - 1], 64)
    turns = [i + 1 for i in range(1, 64) if signs[i] != signs[i - 1]]
    assert sizes == turns
    assert sequence == [signs[0], *(signs[i - 1] for i in turns)]


@given(where=st.integers(2, 2**24 - 1))
@settings(max_examples=50)
def test_single_crossover_is_found_exactly(where):
    assert changes(lambda n: np.where(n < where, -1.0, 1.0), 2**24) == ([where], [-1.0, 1.0])


@given(start=st.integers(65, 2**20), steps=st.floats(1.01, 40))
@settings(max_examples=50)
def test_crossovers_a_64th_of_an_octave_apart_are_found(start, steps):
    end = int(np.ceil(start * 2 ** (steps / 64))) + 1
    found = changes(lambda n: np.where((start <= n) & (n < end), 1.0, -1.0), 2**24)
    assert found == ([start, end], [-1.0, 1.0, -1.0])


def test_many_crossovers_take_as_few_evaluations_as_one():
    """Many sizes are evaluated at once: 15 crossovers take as many evaluations as the last one."""
    looks, at = [], [2**power + 3 for power in range(8, 23)]

    def order(n):
        looks.append(n.size)
        return np.where(np.searchsorted(at, n, side="right") % 2, 1.0, -1.0)

    found, signs = changes(order, 2**24)
    assert found == at
    assert signs == [-1.0, 1.0] * 8
    # Each evaluation narrows the 2²² / 64 sizes between two neighbours to a sixteenth.
    assert len(looks) <= 1 + 5


@pytest.mark.parametrize("turns", [1, 2, 5])
def test_answer_with_many_crossovers_says_how_far_apart_the_layers_are(monkeypatch, turns):
    """One layer takes n, the other n ± n/20, the sign changing at each crossover: apart by 1/0.95 − 1."""
    at = np.array([10, 20, 30, 40, 50][:turns])

    class Fixed:
        rung, constants_from = "kernel", "self"

        def __init__(self, seconds):
            self.seconds = seconds

    def timed(layer, device, sizes, **kwargs):
        seq = sizes["seq"]
        sign = np.where(np.searchsorted(at, seq, side="right") % 2, 1.0, -1.0)
        return Fixed(seq * (1 + sign / 20) if layer.name == "gru" else seq)

    monkeypatch.setattr("costmodel.crossing.predict", timed)
    found = cm.crossover(cm.GRU(), cm.RNN(), "h200-sxm", over="seq", batch=1, hidden=64, limit=64)
    assert found.sizes == tuple(at)
    assert found.apart == (None if turns == 1 else pytest.approx(1 / 0.95 - 1))
    said, last = str(found), "gru" if turns % 2 == 0 else "rnn"
    assert f"less for gru below seq = 10, {'rnn from 10' if turns < 4 else f'{last} from 50'} on" in said
    assert ("the order changes 3 times more, and the two are at most 5.3% apart" in said) == (turns == 5)


def test_distance_leaves_out_sizes_at_which_one_count_is_zero():
    found = _apart(np.array([0.0, 4.0, 0.0, 6.0]), np.array([0.0, 5.0, 3.0, 5.0]))
    assert found == 0.25
    assert _apart(np.zeros(2), np.ones(2)) == 0


def test_an_answer_is_plain_json():
    answer = cm.crossover(cm.LSTM(), cm.DenseAttention(), hidden=64, **FLOPS, heads=8, head_dim=8).to_dict()
    assert answer["size"] == answer["answer"] == 256
    assert answer["version"] == cm.__version__
    assert answer["limit"] == 2**24


def test_traffic_that_depends_on_sram_takes_it_from_the_device():
    sizes = {"over": "head_dim", "of": "hbm_bytes", "batch": 1, "heads": 1, "seq": 4096, "limit": 512}
    tiled = cm.TiledAttention(schedule="fa1")
    with pytest.raises(SizeError, match="sram"):
        cm.crossover(tiled, cm.DenseAttention(), **sizes)
    # Beyond some width of a head, FA-1 moves more than materialised scores do (claims.md §3.2).
    h200 = cm.hardware.load("h200-sxm")
    found = cm.crossover(tiled, cm.DenseAttention(), h200, **sizes)
    assert found.cheaper[0] == "tiled-attention"
    # The memory may also be given as a size, for a chip without a spec.
    said = cm.crossover(tiled, cm.DenseAttention(), sram=h200.shared_per_unit, **sizes)
    assert (said.sizes, said.cheaper) == (found.sizes, found.cheaper)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"of": "flop"}, UnknownNameError, "unknown quantity 'flop'; did you mean 'flops'"),
        ({"over": "sequ"}, UnknownNameError, "unknown size 'sequ'; did you mean 'seq'"),
        ({"over": "window"}, UnknownNameError, "size 'window' of lstm or gru"),
        ({"of": "seconds"}, CostmodelError, "needs a device"),
        ({"hidden": 2.5}, SizeError, "size hidden"),
    ],
)
def test_bad_questions_are_refused(change, error, text):
    question = {"over": "seq", "of": "flops", "batch": 1, "hidden": 64} | change
    with pytest.raises(error, match=text):
        cm.crossover(cm.LSTM(), cm.GRU(), **question)


@pytest.mark.parametrize("limit", [0, -1, 2.5, float("nan"), float("inf"), "many", 2**41])
def test_limit_must_be_a_possible_size(limit):
    with pytest.raises(SizeError, match=r"size seq: wanted|wanted limit to be a number"):
        cm.crossover(cm.LSTM(), cm.GRU(), over="seq", of="flops", batch=1, hidden=64, limit=limit)


def test_size_that_varies_must_not_be_given():
    with pytest.raises(SizeError, match="seq is what varies"):
        cm.crossover(cm.LSTM(), cm.GRU(), over="seq", of="flops", batch=1, hidden=64, seq=8)


def test_search_ends_at_the_largest_possible_size():
    """Density is a percentage: at 100, block-sparse attention is dense attention."""
    sizes = {"batch": 1, "heads": 1, "head_dim": 64, "seq": 2**14}
    found = cm.crossover(cm.BlockSparse(), cm.DenseAttention(), over="density", of="flops", **sizes)
    assert (found.limit, found.sizes) == (100, (100,))
    assert found.cheaper[0] == "block-sparse"


def test_origin_of_constants_is_named_once():
    found = cm.crossover(
        cm.LSTM(),
        cm.TiledAttention(),
        "h200-sxm",
        over="seq",
        limit=64,
        batch=1,
        hidden=64,
        heads=1,
        head_dim=64,
    )
    origins = found.constants_from.split(", ")
    assert len(origins) == len(set(origins)) > 1


def test_sizes_that_do_not_vary_must_be_single_numbers():
    sizes = FLOPS | HEADS | {"batch": np.array([1, 2]), "hidden": 64}
    with pytest.raises(SizeError, match="wanted one batch, got 2 values; seq is what varies"):
        cm.crossover(cm.LSTM(), cm.DenseAttention(), **sizes)
    with pytest.raises(SizeError, match="wanted one batch"):
        cm.crossover(cm.LSTM(), cm.DenseAttention(), **sizes | {"batch": [[1]]})
    one, listed = (cm.crossover(cm.LSTM(), cm.DenseAttention(), **sizes | {"batch": b}) for b in (1, [1]))
    assert listed == one


def test_a_notebook_shows_a_crossover_in_words():
    found = cm.crossover(cm.LSTM(), cm.GRU(), over="seq", of="flops", batch=1, hidden=8)
    assert repr(found) == f"<{found}>"
    assert "gru" in repr(found)


def test_grounds_state_the_rung_and_origin_of_each_layer():
    layers = cm.LSTM(), cm.TiledAttention()
    sizes = {"batch": 8, "hidden": 1024, "heads": 16, "head_dim": 64}
    found = cm.crossover(*layers, "h200-sxm", over="seq", limit=64, **sizes)
    said = [
        {"layer": p.layer.name, "rung": p.rung, "constants_from": p.constants_from}
        for layer in layers
        for p in [
            cm.predict(layer, "h200-sxm", {n: v for n, v in sizes.items() if n in layer.sizes()}, seq=64)
        ]
    ]
    assert said[0]["rung"] != said[1]["rung"]
    assert list(found.grounds) == list(found.to_dict()["grounds"]) == said
    assert cm.crossover(*layers, over="seq", of="flops", limit=64, **sizes).grounds == ()
