"""What tests of the commands share: the demo model, a question that it answers, and where nodes listen."""

from __future__ import annotations

from tests.processes import DEMO

WEIGHTS = str(DEMO)
LOOPBACK = ["--host", "127.0.0.1"]
QUESTION = "What is a route?"
ANSWER = "A route is the chain of nodes and parts that covers the whole model exactly once."
