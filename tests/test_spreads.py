"""Intervals of defaults and of carried constants: never surer than what they come from."""

from costmodel import spreads

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
