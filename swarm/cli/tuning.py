"""How the libraries below torch are told to behave. They look once: all this must happen before torch is imported."""

from __future__ import annotations

import contextlib
import ctypes
import os

M_ARENA_MAX = -8  # mallopt's number for how many arenas there may be

# Several nodes may share a machine: OpenMP threads that spin for long steal each other's cores. So many spins bridge the
# gaps between a layer's operations and end before the batch's output has reached the next node.
OPENMP_SPINS = "10000"

# Code that oneDNN makes for a product of so many rows, a shape and a number of rows once: 0.5 ms and 0.6 MB each. It and
# torch keep 1,024 each unless told; 16 sessions whose batches vary take 50 MB then, and gain nothing: a pass needs five.
KEPT_PRODUCTS = "32"


def bound_spins() -> None:
    """For this process and those it starts."""
    os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPINS)


def prepare_to_compute() -> None:
    """For a process that computes layers and has promised how much memory it takes."""
    bound_spins()
    share_arenas()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for huge pages: weights stream through the caches
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KEPT_PRODUCTS)
    os.environ.setdefault("LRU_CACHE_CAPACITY", KEPT_PRODUCTS)  # torch's own


def share_arenas() -> None:
    """glibc gives each thread memory of its own and keeps what it had: 30 MB more than was promised, after some moves."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)
