"""Matrices that oneDNN has reordered, as the bytes that they are: torch shows nobody what lies in them.

A view is made by calls that torch has for its own compiled code. Where they are missing, there are no views.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

_DTYPES = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32", torch.int8: "int8"}


def is_opaque(tensor: Tensor) -> bool:
    """Whether a tensor is a matrix that oneDNN has reordered."""
    return tensor.layout is torch._mkldnn  # pyright: ignore[reportAttributeAccessIssue]


def size_of(reordered: Tensor) -> int:
    """Bytes."""
    return int(torch.ops.mkldnn._nbytes(reordered))


def memory_of(reordered: Tensor) -> Tensor:
    """Its bytes, in place, for as long as it lives: [size] int8."""
    memory = (ctypes.c_byte * size_of(reordered)).from_address(torch.ops.mkldnn.data_ptr(reordered))
    return torch.frombuffer(memory, dtype=torch.int8)


@functools.cache
def has_memory() -> bool:
    """Whether this torch tells where a reordered matrix lies."""
    return hasattr(torch.ops.mkldnn, "data_ptr") and hasattr(torch.ops.mkldnn, "_nbytes")


@functools.cache
def has_views() -> bool:
    """Whether this torch makes a reordered matrix of bytes that lie somewhere else."""
    try:
        like = torch.ops.mkldnn._reorder_linear_weight(torch.ones(64, 64), 1)
        return torch.equal(memory_of(view_of(memory_of(like).data_ptr(), like)), memory_of(like))
    except (AttributeError, OSError, RuntimeError):
        return False


def view_of(address: int, like: Tensor) -> Tensor:
    """What lies at an address as a reordered matrix of the shape and layout of another one.

    The caller keeps the memory as long as the view. How bytes are laid out is never read from a file: native code believes
    it.
    """
    library = _library()
    described = bytes(cast(Tensor, torch.ops.mkldnn._get_mkldnn_serialized_md(like)).numpy())
    rows, columns = like.shape
    sizes, strides = (ctypes.c_int64 * 2)(rows, columns), (ctypes.c_int64 * 2)(columns, 1)
    handle = ctypes.c_void_p()
    failed = library.aoti_torch_create_tensor_from_blob_v2(
        ctypes.c_void_p(address),
        ctypes.c_int64(2),
        sizes,
        strides,
        ctypes.c_int64(0),
        ctypes.c_int32(getattr(library, f"aoti_torch_dtype_{_DTYPES[like.dtype]}")()),
        ctypes.c_int32(library.aoti_torch_device_type_cpu()),
        ctypes.c_int32(0),
        ctypes.byref(handle),
        ctypes.c_int32(library.aoti_torch_layout__mkldnn()),
        (ctypes.c_uint8 * len(described)).from_buffer_copy(described),
        ctypes.c_int64(len(described)),
    )
    if failed:
        raise RuntimeError("torch makes no reordered matrix of bytes")
    make_capsule: Any = ctypes.pythonapi.PyCapsule_New
    make_capsule.restype, make_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    bridge: Any = importlib.import_module("torch._C._aoti")
    return cast(Tensor, bridge.alloc_tensor_by_stealing_from_void_ptr(make_capsule(handle, None, None)))


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
