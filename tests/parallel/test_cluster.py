"""Devices per node: eight, or as many as links join."""

import pytest

from costmodel import hardware
from costmodel.errors import CostmodelError
from costmodel.parallel import Cluster


@pytest.mark.parametrize(("devices", "node"), [(4, 72), (72, 72), (144, 72), (256, 64), (96, 48)])
def test_a_rack_of_72_is_a_node_or_as_much_of_it_as_divides_the_devices(devices, node):
    """GB200 NVL72 and GB300 NVL72; NVIDIA's trainings on 256 use 64 of each rack."""
    for name in ("gb200", "gb300"):
        assert Cluster(device=name, devices=devices).per_node == node


@pytest.mark.parametrize("name", ["h200-sxm", "b200-sxm", "mi300x", "l40s"])
def test_other_nodes_have_eight(name):
    assert hardware.load(name).joined == Cluster(device=name, devices=64).per_node == 8


def test_a_node_that_is_given_is_taken():
    assert Cluster(device="gb200", devices=256, node=8).per_node == 8


def test_devices_that_fill_neither_racks_nor_nodes_are_refused():
    with pytest.raises(CostmodelError, match="202 devices do not fill nodes of 8; 200 or 208 would"):
        Cluster(device="gb200", devices=202)
