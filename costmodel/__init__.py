"""costmodel: why a layer is as fast as it is, where its limit lies, and what would change."""

from costmodel._version import __version__

__all__ = ["__version__"]
