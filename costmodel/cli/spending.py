"""What a token takes besides time: energy, and money."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from costmodel.cli import output
from costmodel.units import render

if TYPE_CHECKING:
    from costmodel.hardware import Device
    from costmodel.models import Architecture


@dataclass(frozen=True)
class Spent:
    """What all devices of a model spend on its tokens.

    Attributes
    ----------
    energy_j_per_token : float or None
        Energy at the devices' rated power [J], without hosts and cooling; None if the spec has no power.
    cost_per_million_tokens : float or None
        Cost, in the currency of the price; None without a price.
    """

    energy_j_per_token: float | None
    cost_per_million_tokens: float | None

    @classmethod
    def of(cls, found: Architecture, device: Device, tokens_per_second: float, price: float | None) -> Spent:
        """Return what is spent at a rate of tokens, with a price per hour of each device."""
        seconds = found.devices / tokens_per_second
        return cls(
            energy_j_per_token=None if device.tdp_w is None else device.tdp_w * seconds,
            cost_per_million_tokens=None if price is None else 1e6 * price * seconds / 3600,
        )

    def lines(self) -> list[str]:
        """Return what is known in words."""
        energy, cost = self.energy_j_per_token, self.cost_per_million_tokens
        said = {
            "energy": energy and f"at most {render(energy, 'J')} a token, at rated power",
            "cost": None if cost is None else f"{output.cost(cost)} for a million tokens",
        }
        return [f"  {name:<11}  {words}" for name, words in said.items() if words]
