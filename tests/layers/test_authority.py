"""Every expression of every layer against a value worked out without the package (authority/)."""

import sys
from pathlib import Path

import pytest
from authority import AUTHORITY
from cases import cases
from check import check

from costmodel.layers import classes

sys.path.insert(0, str(Path(__file__).parents[1]))
import mutants


@pytest.mark.parametrize(("layer", "points"), [pytest.param(*case, id=case[0].label) for case in cases()])
def test_every_expression(layer, points):
    check(layer, points)


def test_every_authority_is_used():
    """A layer that is renamed does not slip away from its authority."""
    assert AUTHORITY.keys() == {layer.name for layer, _ in cases()}
    assert AUTHORITY.keys() <= classes().keys()


def test_a_sample_of_mutants_is_caught():
    """All of them: ``make mutants``."""
    total, survivors = mutants.run(every=29)
    unexplained = [str(mutant) for mutant in survivors if mutants.why(mutant) is None]
    assert total > 1000
    assert unexplained == []
