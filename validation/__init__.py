"""Validation on a real device: measure, compare, calibrate, explain.

>>> import costmodel as cm
>>> frame = cm.validation.run("cpu", budget_s=240)  # doctest: +SKIP

Everything that touches torch is here, and imports it only when a kernel is to run.
"""

from costmodel.validation.measuring import measure, run

__all__ = ["measure", "run"]
