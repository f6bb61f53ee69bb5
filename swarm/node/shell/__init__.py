"""The node as a process: its I/O loop, how it is built, and what it shares with the machine's other nodes."""
