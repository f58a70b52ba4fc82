"""Option values: only what an option's type allows is accepted, and every option and size is explained."""

import numpy as np
import pytest

import costmodel as cm
from costmodel import evaluate
from costmodel.errors import CostmodelError, SizeError
from costmodel.layers import classes, get
from costmodel.layers._base import glossary_lines
from costmodel.layers._options import option_meanings


@pytest.mark.parametrize(
    ("layer", "options", "text"),
    [
        # As a condition, any text except the empty one is true.
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
def test_values_that_an_option_does_not_allow_are_refused(layer, options, text):
    with pytest.raises(cm.CostmodelError, match=text):
        get(layer)(**options)


@pytest.mark.parametrize(
    ("layer", "options", "sizes", "text"),
    [
        ("conv", {"groups": 3}, {"input": 8, "d_model": 9}, "multiples of groups=3"),
        ("conv", {"groups": 3}, {"input": 9, "d_model": 8}, "multiples of groups=3"),
        ("sru", {}, {"input": 8, "hidden": 9}, "give highway=true"),
    ],
)
def test_only_sizes_that_an_option_rules_out_are_refused(layer, options, sizes, text):
    made = get(layer)(**options)
    rest = {name: 5 for name in made.required if name not in sizes}
    with pytest.raises(SizeError, match=text):
        evaluate(made, **rest, **sizes)
    assert evaluate(made, **rest, **dict.fromkeys(sizes, 9))["matrix_flops"] > 0
    if layer == "sru":
        assert evaluate(get(layer)(highway=True), **rest, **sizes)["matrix_flops"] > 0


def test_numpy_values_and_lists_are_accepted():
    wanted = cm.TiledAttention(causal=True, tile=(128, 64))
    assert cm.TiledAttention(causal=np.True_, tile=[128, np.int64(64)]) == wanted
    assert cm.TiledAttention(causal=1, tile=np.array([128, 64]).tolist()).label == wanted.label
    assert cm.MoE(shared=0) == cm.MoE()
    assert type(cm.Conv(groups=np.int32(2)).groups) is int


@pytest.mark.parametrize("name", classes())
def test_a_layer_can_be_made_from_its_own_options_and_their_text(name):
    layer = get(name)()
    assert get(name)(**layer.options) == layer
    text = {option: cm.layers.option_text(value) for option, value in layer.options.items()}
    assert get(name).from_text(text) == layer


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: get("moe")(activation=[1]), r"activation \[1\] of moe; known: .*silu"),
        (lambda: get("feed-forward")(activation={}), "activation {} of feed-forward; known: .*relu"),
        (lambda: get("norm")(kind=[1]), r"kind \[1\] of norm; known: layer, rms"),
        (lambda: get("lstm")(direction=["fwd"]), r"direction \['fwd'\] of lstm"),
        (lambda: get("dense-attention")(foo=1), "option 'foo' of dense-attention; known: .*causal"),
        (lambda: get("dense-attention")(casual=True), "did you mean 'causal'"),
    ],
)
def test_unknown_options_are_refused_in_one_line(make, text):
    """The error says what came and what would do; Python's TypeError would not."""
    with pytest.raises(CostmodelError, match=text) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_sizes_of_every_class_are_explained():
    """A class explains the same sizes as a layer with its default options."""
    for kind in classes().values():
        assert glossary_lines(kind) == glossary_lines(kind())
    assert [name for name, _ in glossary_lines(get("lstm"))][:3] == ["batch", "seq", "hidden"]


@pytest.mark.parametrize("kind", classes().values(), ids=classes())
def test_options_of_every_class_are_explained(kind):
    """Inherited options too, and without text of the next docstring section."""
    words = option_meanings(kind)
    assert set(words) >= set(kind.option_types())
    assert all(words[option] and "Raises" not in words[option] for option in kind.option_types())


def test_explanations_of_sizes_state_the_layers_own_defaults_and_words():
    """RetNet's values, for example, are twice as wide as its keys."""
    assert dict(glossary_lines(get("retnet")))["value_dim"].endswith("(default 2*head_dim)")
    delta = dict(glossary_lines(get("gated-delta-net")))
    assert delta["kv_heads"] == "value heads, a multiple of heads (default heads)"
    for kind in classes().values():
        assert set(kind.meanings) <= set(kind().sizes()), kind.name
        for name, meaning in glossary_lines(kind):
            assert meaning.count("default ") == (name in kind.defaults), (kind.name, name)


def test_an_optimizer_step_with_more_tensors_than_parameters_is_refused():
    layer = get("optimizer-step")(implementation="loop")
    with pytest.raises(SizeError, match="tensors must be no more than params"):
        evaluate(layer, params=5, tensors=9)
    assert evaluate(layer, params=5, tensors=5)["launches"] > 0
