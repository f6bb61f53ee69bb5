"""Whether a machine's kernels for a stored form are worth using: found out by running them."""

from __future__ import annotations

import time
from collections.abc import Callable

# The matrix of a try, at least: products with smaller ones take as long as what surrounds them.
TRIED_ROWS = TRIED_COLUMNS = 1024
TRIES = 5
TIMES_SLOWER = 3.0  # than numbers made plain first; kernels that are any good are faster, others 100 times slower


def is_worth_it(kernel: Callable[[], object], otherwise: Callable[[], object]) -> bool:
    """Whether a kernel is to be used. Far from where both are as fast, so that machines of one kind decide alike."""
    return prefers_kernel(_least_seconds(kernel), _least_seconds(otherwise))


def prefers_kernel(kernel_seconds: float, other_seconds: float) -> bool:
    return kernel_seconds < TIMES_SLOWER * other_seconds


def _least_seconds(run: Callable[[], object]) -> float:
    """Of a few tries: another program may have had the processor."""
    least = float("inf")
    for _ in range(TRIES):
        start = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - start)
    return least
