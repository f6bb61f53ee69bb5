"""Figures as nodes publish them: rounded, and changed only when what is measured has clearly moved.

Pure. Equal views give equal plans only if figures hold still: the noise of a measurement must move nobody.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median

STEPS_AN_OCTAVE = 8
SAMPLES = 20
TOLERANCE = 0.15


def round_figure(value: float) -> float:
    """The nearest eighth of an octave (9% apart); 0 for what is not positive."""
    return 2.0 ** (round(math.log2(value) * STEPS_AN_OCTAVE) / STEPS_AN_OCTAVE) if value > 0 else 0.0


class Published:
    """One figure: `value` follows the median of the last 20 measurements once that is 15% away."""

    def __init__(self) -> None:
        self.value = 0.0  # 0: not measured yet
        self._exact = 0.0  # the same, not rounded
        self._samples: deque[float] = deque(maxlen=SAMPLES)

    def note(self, measured: float) -> None:
        self._samples.append(measured)
        middle = median(self._samples)
        if not self._exact or (len(self._samples) == SAMPLES and abs(middle / self._exact - 1) > TOLERANCE):
            self._exact = middle
            self.value = round_figure(middle)
