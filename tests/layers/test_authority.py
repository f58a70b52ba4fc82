"""Every expression of every layer against a value worked out independently of the package (authority/)."""

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
def test_every_expression_equals_its_authority(layer, points):
    check(layer, points)


def test_every_authority_belongs_to_a_layer_and_has_cases():
    """A layer that is renamed must not lose its authority unnoticed."""
    assert AUTHORITY.keys() == {layer.name for layer, _ in cases()}
    assert AUTHORITY.keys() <= classes().keys()


def test_the_authority_catches_a_sample_of_mutants():
    """``make mutants`` tries all of them."""
    total, survivors = mutants.run(every=29)
    unexplained = [str(mutant) for mutant in survivors if mutants.why(mutant) is None]
    assert total > 1000
    assert unexplained == []
