"""Options given as values: what their fields' types let them be, and nothing that only looks like it."""

import numpy as np
import pytest

import costmodel as cm
from costmodel.layers import classes, get


@pytest.mark.parametrize(
    ("layer", "options", "text"),
    [
        # Text that is true, as every text is that is not empty.
        ("tiled-attention", {"causal": "false"}, "causal of tiled-attention: wanted True or False, got"),
        ("lstm", {"bias": None}, "bias of lstm: wanted True or False, got None"),
        ("lstm", {"persistent": "auto"}, "True or False, or None for auto, got 'auto'"),
        ("lstm", {"bidirectional": 2}, "True or False"),
        ("tiled-attention", {"tile": (0, 64)}, "2 whole numbers of at least 1, or None for auto"),
        ("tiled-attention", {"tile": (64.5, 64)}, "2 whole numbers"),
        ("tiled-attention", {"tile": (64,)}, "2 whole numbers"),
        ("tiled-attention", {"tile": 64}, "2 whole numbers"),
        ("tiled-attention", {"tile": "64x64"}, "2 whole numbers"),
        ("gated-delta-net", {"chunk": 0}, "whole number of at least 1, got 0"),
        ("conv", {"groups": 1.0}, "whole number of at least 1, got 1.0"),
        ("conv", {"groups": True}, "whole number"),
        ("moe", {"shared": -1}, "whole number, 0 or more, got -1"),
        ("expert-parallel", {"cut": 0}, "whole number of at least 1, got 0"),
        ("lstm", {"dtype": None}, "unknown dtype"),
        ("lstm", {"direction": None}, "unknown direction"),
    ],
)
def test_what_is_no_value_of_the_option_is_refused(layer, options, text):
    with pytest.raises(cm.CostmodelError, match=text):
        get(layer)(**options)


def test_a_value_may_come_from_numpy_or_as_a_list():
    wanted = cm.TiledAttention(causal=True, tile=(128, 64))
    assert cm.TiledAttention(causal=np.True_, tile=[128, np.int64(64)]) == wanted
    assert cm.TiledAttention(causal=1, tile=np.array([128, 64]).tolist()).label == wanted.label
    assert cm.MoE(shared=0) == cm.MoE()
    assert type(cm.Conv(groups=np.int32(2)).groups) is int


@pytest.mark.parametrize("name", classes())
def test_what_a_layer_says_of_its_options_can_be_given_back(name):
    layer = get(name)()
    assert get(name)(**layer.options) == layer
    text = {option: cm.layers.option_text(value) for option, value in layer.options.items()}
    assert get(name).from_text(text) == layer
