"""Windows along one dimension of an image: their number, and the positions that they touch."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple


class Span(NamedTuple):
    """Windows along one dimension.

    Attributes
    ----------
    length : int
        Number of positions.
    width, stride, padding, dilation : int
        Positions of a window, distance of windows, positions added at each end, and distance of a window's
        positions.
    """

    length: int
    width: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def outputs(self, *, ceil: bool = False) -> int:
        """Return the number of windows; with `ceil`, a last one that is cut off counts, too."""
        room = self.length + 2 * self.padding - self.dilation * (self.width - 1) - 1
        steps = -(-room // self.stride) if ceil else room // self.stride
        if ceil and steps * self.stride >= self.length + self.padding:
            steps -= 1  # it would start in the padding
        if steps < 0:
            raise ValueError("a window larger than its side")
        return steps + 1

    @property
    def meets(self) -> bool:
        """Whether every window covers a position that is not padding."""
        return self.padding <= self.dilation * (self.width - 1) and (
            self.width == 1 or self.dilation <= self.length
        )

    def touched(self, outputs: int) -> int:
        """Return the number of positions that any window touches."""
        return _touched(self, outputs)


@cache
def _touched(span: Span, outputs: int) -> int:
    if span.dilation == 1 and span.stride <= span.width:
        reach = (outputs - 1) * span.stride + span.width - span.padding
        return max(min(reach, span.length), 0)
    starts = range(-span.padding, outputs * span.stride - span.padding, span.stride)
    taps = range(0, span.dilation * span.width, span.dilation)
    return len({start + tap for start in starts for tap in taps if 0 <= start + tap < span.length})
