"""`python -m swarm.cli node …`: the commands without their scripts on the path."""

from __future__ import annotations

import importlib
import sys

COMMANDS = ("node", "chat", "weights", "status", "bench", "batch", "gateway")


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: python -m swarm.cli {{{','.join(COMMANDS)}}} ...")
    name = sys.argv.pop(1)
    sys.argv[0] = f"swarm-{name}"
    importlib.import_module(f"swarm.cli.{name}").main()


if __name__ == "__main__":
    main()
