"""Intervals of defaults and of carried constants: never surer than what they come from."""

import pytest

from costmodel import spreads
from costmodel.calibration import Section, Spread, Wanted
from costmodel.hardware import load

NARROW, WIDE = (0.99, 0.995, 1.005, 1.01), (0.01, 0.02, 50.0, 100.0)


def test_defaults_are_as_sure_as_their_rows_where_these_were_fitted():
    (found,) = spreads.of_defaults("gemm", 130, NARROW, fitted_there=True)
    assert (found.above, found.rows, found.q) == (0.0, 130, NARROW)


def test_defaults_are_elsewhere_no_surer_than_constants_of_another_generation():
    (other,) = spreads.transfer("gemm", "generation")
    for q, wider in ((NARROW, other.q), (WIDE, WIDE)):
        (found,) = spreads.of_defaults("gemm", 130, q, fitted_there=False)
        assert (found.above, found.rows, found.q) == (0.0, 130, wider)


def test_relations_that_a_kernel_was_never_judged_on_have_the_errors_of_all_kernels():
    assert spreads.transfer("no such kernel", "generation") == spreads.transfer("any", "generation") != ()
    assert spreads.transfer("gemm", "no such relation") == ()
    assert spreads.transfer("gemm", "generation")[0].above == 0  # of times from 0 on


# -- whose errors count ------------------------------------------------------------------------


def fitted(**changes):
    """Return constants of one framework's GEMM, nearly exact on the rows that were held out."""
    told = {"source": "x", "licence": "x", "versions": "x", "table_hash": "x", "rows_fitted": 70}
    told |= {"rows_held_out": 30, "mdape": 0.1, "mape": 0.1, "bias": 0.0}
    cell = {"kernel": "gemm", "op": "gemm", "dtype": "bf16", "framework": "vllm", "constants": {}}
    spread = (Spread(above=0.0, rows=30, q=NARROW),)
    return Section(**{**cell, "spread": spread, "provenance": told, **changes})


#: What is asked for beside a GEMM in bf16, of constants that were fitted on …
OWN = [
    ({}, {}),
    ({"framework": "vllm"}, {}),
    # The constants are of all kernels of the framework, and so of any that is named.
    ({"framework": "vllm", "label": "cutlass"}, {}),
    ({"label": "cutlass"}, {"kernels": ("cutlass", "nvjet")}),
    ({"dtype": "fp16"}, {}),
]
OTHERS = [
    ({"framework": "sglang"}, {}),
    ({"framework": "vllm", "label": "triton"}, {"kernels": ("cutlass", "nvjet")}),
    ({"op": "bmm"}, {}),
    ({"borrowed": True}, {}),
]


def errors(wanted, section):
    asked = Wanted(**{"kernel": "gemm", "op": "gemm", "dtype": "bf16", **wanted})
    (found,) = spreads.own(fitted(**section), asked, load("h200-sxm"))
    return found.q


@pytest.mark.parametrize(("wanted", "section"), OWN)
def test_constants_of_what_is_asked_for_are_as_sure_as_their_rows(wanted, section):
    assert errors(wanted, section) == NARROW


@pytest.mark.parametrize(("wanted", "section"), OTHERS)
def test_constants_of_anything_else_are_no_surer_than_those_of_another_generation(wanted, section):
    (other,) = spreads.transfer("gemm", "generation")
    assert errors(wanted, section) == other.q != NARROW


def test_a_backward_pass_with_a_forwards_constants_has_the_product_of_both_errors():
    """If forward is up to a times and backward up to b times as slow, together they are up to a·b."""
    (other,) = spreads.transfer("gemm", "generation")
    backward = errors({"direction": "bwd"}, {"spread": (Spread(above=0.0, rows=30, q=WIDE),)})
    assert backward == pytest.approx([a * b for a, b in zip(WIDE, other.q, strict=True)])
    assert errors({"direction": "bwd_data"}, {"direction": "bwd"}) == NARROW


def test_constants_without_held_out_rows_have_the_errors_of_another_generation():
    assert errors({}, {"spread": ()}) == spreads.transfer("gemm", "generation")[0].q


def test_before_any_constants_were_carried_a_sections_own_errors_are_all_there_are(monkeypatch):
    """Accuracy has to be worked out before its table exists; backward then counts as wide as forward."""
    monkeypatch.setattr(spreads, "_transfers", dict)
    assert spreads.transfer("gemm", "generation") == ()
    assert errors({"framework": "sglang"}, {}) == NARROW
    assert errors({"direction": "bwd"}, {}) == pytest.approx([q**2 for q in NARROW])
