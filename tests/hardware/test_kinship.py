"""Whose constants stand in for a device that has none."""

import pytest

from costmodel.hardware import available, foreign_families, load, nearest_families, relatives
from costmodel.hardware.tables import families

# Devices with open measurements, and hence constants.
OPEN = [
    "nvidia/a100-sxm-80gb",
    "nvidia/a100-pcie-40gb",
    "nvidia/a100-pcie-80gb",
    "nvidia/a40",
    "nvidia/b200-sxm",
    "nvidia/h200-sxm",
    "nvidia/l40s",
    "nvidia/p4",
    "nvidia/p100-pcie-16gb",
    "nvidia/t4",
    "nvidia/v100-pcie-32gb",
    "amd/mi210",
]


@pytest.mark.parametrize(
    ("name", "nearest", "relation"),
    [
        ("nvidia/h100-sxm", "nvidia/h200-sxm", "sibling"),
        ("nvidia/gb200", "nvidia/b200-sxm", "sibling"),
        ("nvidia/l4", "nvidia/l40s", "sibling"),
        ("nvidia/rtx-pro-6000-server", "nvidia/l40s", "generation"),
        ("amd/mi100", "amd/mi210", "generation"),
        ("amd/mi250-gcd", "amd/mi210", "sibling"),
        ("amd/mi300x", "amd/mi210", "generation"),
        ("nvidia/b200-sxm", "nvidia/h200-sxm", "generation"),
        ("nvidia/l40s", "nvidia/a40", "generation"),
        ("nvidia/v100-pcie-32gb", "nvidia/a100-pcie-40gb", "generation"),
        ("nvidia/t4", "nvidia/v100-pcie-32gb", "generation"),
        ("nvidia/titan-xp", "nvidia/p4", "sibling"),
    ],
)
def test_nearest_relative(name, nearest, relation):
    assert relatives(name, OPEN)[0] == (nearest, relation)


def test_generations_are_ranked_by_their_distance():
    others = ["nvidia/b200-sxm", "nvidia/a100-sxm-80gb", "nvidia/v100-sxm2-16gb"]
    assert relatives("nvidia/h200-sxm", others)[0] == ("nvidia/a100-sxm-80gb", "generation")
    assert [name for name, _ in relatives("nvidia/l40s", ["nvidia/a100-sxm-80gb", "nvidia/a40"])] == [
        "nvidia/a40",
        "nvidia/a100-sxm-80gb",
    ]


def test_most_similar_sibling_comes_first():
    siblings = ["nvidia/a30", "nvidia/a100-pcie-40gb", "nvidia/a100-sxm-80gb"]
    ranked = [name for name, _ in relatives("nvidia/a100-sxm-40gb", siblings)]
    assert ranked == ["nvidia/a100-pcie-40gb", "nvidia/a100-sxm-80gb", "nvidia/a30"]


def test_unrelated_devices_are_no_relatives():
    assert relatives("google/tpu-v5e", OPEN) == []
    assert relatives("nvidia/h200-sxm", ["nvidia/h200-sxm", "amd/mi210"]) == []
    assert relatives("nvidia/k40", ["nvidia/b200-sxm"]) == [("nvidia/b200-sxm", "vendor")]


def test_changed_device_is_not_its_own_relative():
    changed = load("nvidia/h100-sxm").replace(hbm="4 TB/s")
    assert relatives(changed, ["nvidia/h100-sxm", "nvidia/h200-sxm"]) == [("nvidia/h200-sxm", "sibling")]


def test_families_list_the_same_vendors_first_and_none_twice():
    known = families()
    for name, family in known.items():
        assert name not in family.nearest
        assert len(set(family.nearest)) == len(family.nearest)
        makers = [known[other].vendor == family.vendor for other in family.nearest]
        assert makers == sorted(makers, reverse=True), "another vendor's come last"


@pytest.mark.parametrize("device", available())
def test_other_vendors_families_are_in_the_order_of_the_table(device):
    """However similar in speed, a device comes after all devices of families named before its own."""
    named = [load(name).family for name, relation in relatives(device, available()) if relation == "foreign"]
    table = families()[load(device).family].nearest
    places = [table.index(family) for family in named]
    assert places == sorted(places)


def test_another_vendors_gpu_comes_last_and_only_where_the_table_names_it():
    """fp32 products on MI210 were 32 % off without constants and 15 with those of A100, of the same years."""
    others = ["nvidia/a100-sxm-80gb", "nvidia/v100-pcie-32gb", "amd/mi25"]
    assert relatives("amd/mi210", others) == [("amd/mi25", "vendor"), ("nvidia/a100-sxm-80gb", "foreign")]
    mi210 = load("amd/mi210")
    assert nearest_families(mi210) == ("cdna2", "cdna1", "cdna3", "cdna4")
    assert foreign_families(mi210) == ("ampere",)
    assert foreign_families(load("google/tpu-v4")) == ()
