"""Whole models: layers put together, from a configuration, a catalogue, or a torch module."""

from __future__ import annotations

from costmodel.models._model import Model, Part

__all__ = ["Model", "Part"]
