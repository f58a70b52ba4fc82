"""Facts about devices, each with its unit, source and status.

Each device is one file, ``<vendor>/<device>.yaml``, whose format is defined in ``schema``.

>>> from costmodel import hardware
>>> h200 = hardware.load("nvidia/h200-sxm")
>>> h200.ridge("bf16")  # FLOP/B
206.125
"""

from costmodel.hardware.check import check
from costmodel.hardware.device import Device
from costmodel.hardware.kinship import foreign_families, nearest_families
from costmodel.hardware.loader import available, family_of, load, measured, relatives, resolve
from costmodel.hardware.quantities import Quantity, Status
from costmodel.hardware.whatif import parse_device_set
from costmodel.hardware.yamlfile import Fault

__all__ = [
    "Device",
    "Fault",
    "Quantity",
    "Status",
    "available",
    "check",
    "family_of",
    "foreign_families",
    "load",
    "measured",
    "nearest_families",
    "parse_device_set",
    "relatives",
    "resolve",
]
