"""All-reduces of one kernel against loads counted by hand, and what inference engines choose among."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel import hardware
from costmodel.errors import UnavailableError, UnknownNameError
from costmodel.kernels import _peer, collective

A100, H200 = hardware.load("nvidia/a100-sxm-80gb"), hardware.load("nvidia/h200-sxm")
#: A load takes 1 µs, starting nothing, and links are so fast that only loads count; or only links count.
LOADS = {"peer_s": 1e-6, "peer_start_s": 0.0, "peer_share": 1e6, "multicast_share": 1e6}
LINKS = {"peer_s": 0.0, "peer_start_s": 0.0, "peer_share": 1.0, "multicast_share": 1.0}


def seconds(size, devices, algorithm, constants, device=H200, **options):
    sizes = {"size": size, "devices": devices, **options}
    return collective.seconds(device, constants, **sizes, algorithm=algorithm).seconds


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_a_short_message_takes_the_loads_that_wait_for_each_other(devices):
    """One-shot: wait, read, wait. Two-shot: wait, read, wait, then a part of each other device, wait."""
    assert seconds(1024, devices, "one-shot", LOADS) == pytest.approx(3e-6)
    assert seconds(1024, devices, "two-shot", LOADS) == pytest.approx((4 + devices - 1) * 1e-6)
    assert seconds(1024, devices, "multicast", LOADS) == pytest.approx(7e-6)


@pytest.mark.parametrize("rounds", [1, 2, 10])
def test_each_further_round_of_loads_takes_another_latency(rounds):
    """36 blocks of 512 threads load 16 bytes each; a fast link leaves them waiting."""
    assert _peer.IN_FLIGHT == 294_912
    size = rounds * 294_912
    assert seconds(size, 2, "one-shot", LOADS) == pytest.approx((3 + rounds - 1) * 1e-6)
    # Half the buffer in a two-shot, twice; all loads of the second time come after the four.
    assert seconds(2 * size, 2, "two-shot", LOADS) == pytest.approx((4 + rounds - 1 + rounds) * 1e-6)


def test_terms_are_dependent_loads_bytes_and_the_start():
    both = {"peer_s": 1e-6, "peer_start_s": 1e-5, "peer_share": 0.5}
    terms = collective.seconds(H200, both, size=1e9, devices=2, algorithm="one-shot").terms
    moving = 1e9 / (0.5 * H200.link_bandwidth)
    assert terms == {
        "depth": pytest.approx(3e-6), "link": pytest.approx(moving), "launch": pytest.approx(1e-5)
    }  # fmt: skip


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_a_long_message_takes_the_bytes_that_a_device_reads(devices):
    """By hand: all other buffers; 2 (p − 1) parts; and N to the switch with N/p from it."""
    size, link = 1e9, H200.link_bandwidth
    assert seconds(size, devices, "one-shot", LINKS) == pytest.approx((devices - 1) * size / link)
    parts = 2 * (devices - 1) / devices * size / link
    assert seconds(size, devices, "two-shot", LINKS) == pytest.approx(parts)
    assert seconds(size, devices, "multicast", LINKS) == pytest.approx((1 + 1 / devices) * size / link)


@given(st.floats(1, 1e10), st.floats(1, 1e10), st.sampled_from([2, 4, 8]))
def test_more_bytes_never_take_less_time(one, other, devices):
    few, many = sorted((one, other))
    for way in (*_peer.ALGORITHMS, collective.CUSTOM):
        assert seconds(few, devices, way, {}) <= seconds(many, devices, way, {}) * (1 + 1e-12)


@pytest.mark.parametrize("device", [A100, H200])
def test_custom_is_the_fastest_of_all_that_the_device_can_run(device):
    size = np.geomspace(64, 2**30, 40)
    ways = [way for way in collective.named("all-reduce") if way != collective.CUSTOM]
    ways = [way for way in ways if device.switch_sums or way not in ("switch", "multicast")]
    each = [seconds(size, 8, way, {}, device) for way in ways]
    assert seconds(size, 8, collective.CUSTOM, {}, device) == pytest.approx(np.min(each, axis=0))


def test_across_nodes_devices_do_not_read_each_others_memory():
    both = {"devices": np.array([8, 16]), "node": 8}
    near, far = collective.seconds(H200, {}, size=4096, **both, algorithm=collective.CUSTOM).seconds
    assert near < 1e-5 < far
    assert far == collective.seconds(H200, {}, size=4096, **both).seconds[1]
    with pytest.raises(UnavailableError, match="one-shot is an all-reduce of devices of one node"):
        collective.seconds(H200, {}, size=4096, **both, algorithm="one-shot")


def test_what_a_device_or_a_collective_lacks_is_refused():
    with pytest.raises(UnavailableError, match="no switch that adds"):
        seconds(4096, 8, "multicast", {}, A100)
    tpu = hardware.load("google/tpu-v5p")
    with pytest.raises(UnavailableError, match="no loads from another device's memory"):
        seconds(4096, 8, "one-shot", {}, tpu)
    assert seconds(4096, 8, collective.CUSTOM, {}, tpu) == seconds(4096, 8, None, {}, tpu)
    with pytest.raises(UnknownNameError, match="pairwise"):
        collective.seconds(H200, {}, size=4096, devices=8, collective="all-to-all", algorithm="one-shot")


def test_one_device_reduces_nothing():
    for way in (*_peer.ALGORITHMS, collective.CUSTOM):
        assert seconds(1e6, 1, way, {}) == 0
