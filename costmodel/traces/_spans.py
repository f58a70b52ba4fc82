"""Windows along one side of an image: how many there are, and which of its places they touch."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple


class Span(NamedTuple):
    """A window along one side.

    Attributes
    ----------
    length : int
        Places of the side.
    width, stride, padding, dilation : int
        The window's places, its steps, the places added at each end, and how far its places are apart.
    """

    length: int
    width: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def outputs(self, *, ceil: bool = False) -> int:
        """Return how many windows there are; with `ceil` one that is cut off counts, too."""
        room = self.length + 2 * self.padding - self.dilation * (self.width - 1) - 1
        steps = -(-room // self.stride) if ceil else room // self.stride
        if ceil and steps * self.stride >= self.length + self.padding:
            steps -= 1  # it would begin in the padding
        if steps < 0:
            raise ValueError("a window larger than its side")
        return steps + 1

    @property
    def meets(self) -> bool:
        """Whether every window meets a place that is not padding."""
        return self.padding <= self.dilation * (self.width - 1) and (
            self.width == 1 or self.dilation <= self.length
        )

    def touched(self, outputs: int) -> int:
        """Return how many of the side's places some window touches."""
        return _touched(self, outputs)


@cache
def _touched(span: Span, outputs: int) -> int:
    if span.dilation == 1 and span.stride <= span.width:
        reach = (outputs - 1) * span.stride + span.width - span.padding
        return max(min(reach, span.length), 0)
    starts = range(-span.padding, outputs * span.stride - span.padding, span.stride)
    taps = range(0, span.dilation * span.width, span.dilation)
    return len({start + tap for start in starts for tap in taps if 0 <= start + tap < span.length})
