"""What benchmarks make of the moments at which tokens came."""

from __future__ import annotations

import pytest

from swarm.bench.swarm_side import rate_together


def test_streams_whose_tokens_come_together_are_as_fast_as_their_steps() -> None:
    """Sixteen tokens each 0.4 s, a moment apart, of streams that begin and end one step after the other."""
    steps = [[0.4 * step + 0.001 * stream for step in range(stream, 60 - stream)] for stream in range(16)]
    assert rate_together(steps) == pytest.approx(40)


def test_streams_that_never_decode_together_have_no_rate() -> None:
    assert rate_together([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]) == 0
