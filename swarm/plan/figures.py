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
    """One figure: `value` follows what is measured once that has been 15% away for a while.

    What it is compared with is the median of twice as many measurements, and it has to be away 20 times in succession: a
    median of 20 alone strays by 15% about twice in a thousand looks if measurements are up to a fifth off.
    """

    def __init__(self) -> None:
        self.value = 0.0  # 0: not measured yet
        self._reference = 0.0
        self._samples: deque[float] = deque(maxlen=2 * SAMPLES)
        self._since = 0  # measurements since the reference was taken
        self._strayed = 0  # looks in succession at which the median was away from it

    def follow(self, figure: float) -> None:
        """Note a running figure, unless nothing has been measured since it was last noted."""
        if not self._samples or self._samples[-1] != figure:
            self.note(figure)

    def note(self, measured: float) -> None:
        """Take one measurement into account."""
        self._samples.append(measured)
        self._since += 1
        recent = median(list(self._samples)[-SAMPLES:])
        if not self._reference:
            self._publish(measured)
        elif self._since == 2 * SAMPLES:
            self._reference = median(self._samples)
            if abs(self._reference / self.value - 1) > TOLERANCE:
                self.value = round_figure(self._reference)
        is_away = self._since >= SAMPLES and abs(recent / self._reference - 1) > TOLERANCE
        self._strayed = self._strayed + 1 if is_away else 0
        if self._strayed > SAMPLES:
            self._publish(recent)

    def _publish(self, measured: float) -> None:
        self._reference, self._since, self._strayed = measured, 0, 0
        self.value = round_figure(measured)
