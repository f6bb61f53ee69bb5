"""What the libraries below torch keep: it is nobody's memory but the node's."""

from __future__ import annotations

from tests.processes import peak_memory

SMALL = 16_000_000  # bytes, as the code for processors without bfloat16 is; with it, it is 97 MB

PRODUCTS = """
import torch
from swarm.decoder.linear import ReorderedLinear, has_kernels
dtype = torch.bfloat16 if has_kernels(torch.bfloat16) else torch.float32
torch.set_num_threads(1)
linears = [ReorderedLinear(torch.zeros(size, 1024, dtype=dtype)) for size in range(1024, 2560, 256)]
x = torch.zeros(40, 1024, dtype=dtype)
with torch.inference_mode():
    for rows in range(2, 2 + {sizes}):
        for linear in linears:
            linear(x[:rows])
"""
TOLD = "from swarm.cli.tuning import prepare_to_compute\nprepare_to_compute()\n"


def test_a_product_of_each_number_of_rows_is_not_kept_for_ever() -> None:
    few, many = PRODUCTS.format(sizes=1), PRODUCTS.format(sizes=31)
    untold = peak_memory(many) - peak_memory(few)
    told = peak_memory(TOLD + many) - peak_memory(TOLD + few)
    assert told < max(untold / 2, SMALL), (told, untold)
