"""Sizes and options that do not go together are refused with what came."""

import numpy as np
import pytest

from costmodel.errors import CostmodelError, SizeError
from costmodel.evaluate import evaluate
from costmodel.layers import classes, get
from costmodel.programs import rules

#: Sizes of which some layers refuse some combinations.
SEVERAL = np.random.default_rng(0).integers(1, 13, (2000, 40)).astype(float)
LAYERS = [
    *(kind() for name, kind in classes().items()),
    get("conv")(groups=3),
    get("tiled-attention")(causal=True),
    get("dense-attention")(projections=True),
    get("moe")(among=3),
    get("expert-parallel")(cut=3),
    get("mamba-2")(groups=3),
    get("implicit-conv")(grouping="none"),
    get("implicit-conv")(grouping="depthwise"),
    get("memory-pass")(in_place=True),
    get("optimizer-step")(implementation="loop"),
    get("retrieval-memory")(index="ivf"),
    get("strided")(pattern="fixed"),
]


def refusal(layer, sizes):
    """Return why a layer refuses sizes; empty if it does not."""
    try:
        layer.check_sizes(sizes)
    except SizeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if rules(layer)], ids=lambda layer: layer.label)
def test_refused_sizes_are_stated(layer):
    """Every rule is broken by some sizes drawn at random; those that are stated are those that were given."""
    met = set()
    for row in SEVERAL:
        sizes = dict(zip(layer.sizes(), row, strict=False))
        if text := refusal(layer, sizes):
            rule, _, got = text.rpartition("; got ")
            met.add(rule)
            for part in got.split(", "):
                name, _, value = part.partition(" = ")
                assert sizes[name] == float(value)
            assert refusal(layer, {name: np.array([size, size]) for name, size in sizes.items()}) == text
    assert met == {text for _, text in rules(layer)}


def test_the_first_of_many_sizes_that_do_not_fit_is_stated():
    """Along axes of their own: 8 heads share 1, 2 or 4 keys, and 6 heads no 4."""
    heads, keys = np.array([[8.0], [6.0]]), np.array([[1.0, 2.0, 4.0, 5.0]])
    with pytest.raises(SizeError, match=r"; got heads = 6, kv_heads = 4$"):
        evaluate(get("tiled-attention")(), batch=1, heads=heads, seq=8, head_dim=8, kv_heads=keys[:, :3])


@pytest.mark.parametrize(
    ("name", "options", "got"),
    [
        ("lstm", {"generation": True, "bidirectional": True}, "got fwd, true and false"),
        ("lstm", {"generation": True, "direction": "bwd"}, "got bwd, false and false"),
        ("expert-parallel", {"among": 4}, "got among=4"),
        ("matmul", {"group": 32}, "leave out group=32"),
    ],
)
def test_options_that_do_not_go_together_are_stated(name, options, got):
    with pytest.raises(CostmodelError, match=f"{got}$"):
        get(name)(**options)
