"""Where a decoder computes: placing, crossings, waiting, measuring, giving memory back, and which errors end it.

All that differs between a CPU and a card is asked of a Device; nothing else looks at a device's name. Imports torch only
where it is used: a node measures its device while torch is still being imported.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from swarm.decoder.description import KEY_BLOCK
from swarm.decoder.processor import describe_processor
from swarm.errors import RequestError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from swarm.decoder.crossing import Event, Lane

# Of a matrix product on a CPU. A lone row takes another kernel, which rounds differently; from two on all take the same one,
# which is at its fastest with four rows or more (bf16, 18176x4544: 1, 2, 4, 8 rows in 7.4, 8.2, 4.8, 6.1 ms on an AMD EPYC).
LEAST_ROWS = 4
ALIGNMENT = 64  # bytes, of tensors that cross together
# What a card needs besides what the free bytes show once it has a context: cuBLAS' workspaces (32 MiB each on Hopper) and
# kernels, which come when they are first used. On an H200 the largest batches of 7B, 180B and Gemma 2 27B stayed within.
CARD_BYTES = 384 << 20
FULL_CARD = ("out of memory", "ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED")
DRIVERS = ("/dev/nvidiactl", "/dev/dxg")  # of a machine with a card; the second under WSL2


@dataclass(frozen=True, slots=True)
class Room:
    """A device's bytes."""

    total: int
    free: int


class Device(Protocol):
    """A place to compute. Constants say how, methods do what differs."""

    name: str  # cpu, cuda:0
    key: str  # the same for all processes that share its memory
    is_host: bool  # its memory is the machine's own: files are mapped into it, and nothing has to cross
    has_reordered: bool  # linears have a form that is made for its kernels
    has_rms_kernel: bool  # numbers are divided by the root of their mean square in one kernel
    key_block: int  # positions that attention takes at a time
    own_bytes: int  # that it needs besides weights, KV and scratch

    @property
    def where(self) -> torch.device:
        """As torch names it."""
        ...

    @property
    def kind(self) -> str:
        """What decides rounding: two of one kind give the same bits for the same work. At most 64 characters."""
        ...

    def measure(self) -> Room:
        """Bytes now. Raises RequestError if the device is not there."""
        ...

    def doubt(self, dtype: str) -> str | None:
        """Why computing in a dtype is a bad choice here, if it is."""
        ...

    def place(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Bring tensors here from the machine's memory, in one crossing."""
        ...

    def fetch(self, tensor: Tensor) -> Tensor:
        """Bring a tensor to the machine's memory; what leads to it has been computed then."""
        ...

    def finish(self) -> None:
        """Wait until what has been asked for is computed."""
        ...

    def trim(self) -> None:
        """Give memory that nothing uses back to the system, for others."""
        ...

    def open_lane(self) -> Lane | None:
        """What brings bytes here beside what is computed; None where nothing has to cross."""
        ...

    def is_fatal(self, error: Exception) -> bool:
        """Whether everything asked for after such an error fails, too."""
        ...


class Cpu:
    """The machine's processor and memory."""

    name = key = "cpu"
    is_host = True
    has_reordered = True
    has_rms_kernel = False
    key_block = KEY_BLOCK
    own_bytes = 0

    @property
    def where(self) -> torch.device:
        import torch

        return torch.device("cpu")

    @property
    def kind(self) -> str:
        """The processor, its matrix instructions and torch's version."""
        import torch

        processor = describe_processor(torch.backends.cpu.get_cpu_capability())
        return f"{processor} torch {_version(torch.__version__)}"[:64]

    def measure(self) -> Room:
        memory = psutil.virtual_memory()
        return Room(memory.total, memory.available)

    def doubt(self, dtype: str) -> str | None:
        return None

    def place(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors)

    def fetch(self, tensor: Tensor) -> Tensor:
        return tensor

    def finish(self) -> None:
        return

    def trim(self) -> None:
        """glibc keeps freed pages otherwise: 1.2 GB after packing a 1.2 GB part."""
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):
            return  # not glibc

    def open_lane(self) -> Lane | None:
        return None

    def is_fatal(self, error: Exception) -> bool:
        return False


class Cuda:
    """An NVIDIA card, numbered as torch numbers it: CUDA_VISIBLE_DEVICES and the order of the cards are respected."""

    is_host = False
    has_reordered = False
    has_rms_kernel = True
    key_block = 1
    own_bytes = CARD_BYTES

    def __init__(self, index: int) -> None:
        """Raises RequestError if there is no such card."""
        # Growing caches leave holes otherwise. Read when the first byte is allocated.
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        import torch

        count = count_cards()
        if index >= count:
            raise RequestError(
                f'device "cuda:{index}" is not there: {_why_no_card() if not count else f"{count} CUDA devices are"}'
            )
        # cuDNN makes a plan for each shape (0.4 s), and each token of an answer has a shape of its own.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.name = f"cuda:{index}"
        self._index = index
        self._properties: Any = torch.cuda.get_device_properties(index)
        self.key = f"cuda-{self._properties.uuid}"

    @property
    def where(self) -> torch.device:
        import torch

        return torch.device(self.name)

    @property
    def kind(self) -> str:
        import torch

        return f"{self._properties.name} torch {_version(torch.__version__)}"[:64]

    def glance(self) -> int:
        """Free bytes, without making a context on the card if the driver's library can be asked."""
        try:
            nvml: Any = importlib.import_module("pynvml")
            nvml.nvmlInit()
            handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{self._properties.uuid}".encode())
            return int(nvml.nvmlDeviceGetMemoryInfo(handle).free)
        except Exception:  # no such package, no such call, a slice of a card: torch has the last word
            return self.measure().free

    def measure(self) -> Room:
        """With this process' context, which takes some hundred megabytes and counts as used from now on."""
        import torch

        try:
            free, total = torch.cuda.mem_get_info(self._index)
        except RuntimeError as error:  # in use by one process alone, broken
            raise RequestError(f'device "{self.name}" cannot be used: {error}') from None
        return Room(total, free)

    def doubt(self, dtype: str) -> str | None:
        if dtype == "bfloat16" and self._properties.major < 8:
            return f"{self._properties.name} has no kernels for bfloat16 and computes it slowly; try --dtype float16"
        return None

    def place(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return place_packed(tensors, self.where)

    def fetch(self, tensor: Tensor) -> Tensor:
        return tensor.cpu()

    def finish(self) -> None:
        import torch

        torch.cuda.synchronize(self.where)

    def trim(self) -> None:
        import torch

        torch.cuda.empty_cache()
        Cpu().trim()

    def open_lane(self) -> Lane | None:
        return CudaLane(self.where)

    def is_fatal(self, error: Exception) -> bool:
        """All CUDA errors but a lack of memory stay with the process; a full card has several ways to say that it is."""
        import torch

        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in FULL_CARD):
            return False
        sticky = getattr(torch, "AcceleratorError", None)
        return "CUDA error" in text or (sticky is not None and isinstance(error, sticky))


class CudaLane:
    """A stream of copies on a card."""

    def __init__(self, where: torch.device) -> None:
        import torch

        self._where = where
        self._stream = torch.cuda.Stream(where)

    def pin(self, address: int, size: int) -> None:
        import torch

        runtime: Any = torch.cuda.cudart()
        torch.cuda.check_error(runtime.cudaHostRegister(address, size, 0))

    def unpin(self, address: int) -> None:
        import torch

        runtime: Any = torch.cuda.cudart()
        runtime.cudaHostUnregister(address)

    def send(self, there: Tensor, here: Tensor, part: tuple[int, int], after: Sequence[Event]) -> Event:
        import torch

        with torch.cuda.stream(self._stream):
            for event in after:
                self._stream.wait_event(event)
            there[slice(*part)].copy_(here[slice(*part)], non_blocking=True)
            return self._stream.record_event()

    def mark(self) -> Event:
        import torch

        return torch.cuda.current_stream(self._where).record_event()

    def hold(self, event: Event) -> None:
        import torch

        torch.cuda.current_stream(self._where).wait_event(event)

    def wait(self, event: Event) -> None:
        event.synchronize()


def place_packed(tensors: Sequence[Tensor], where: torch.device) -> list[Tensor]:
    """Tensors on another device, copied there as one."""
    import torch

    if len(tensors) == 1:
        return [tensors[0].to(where)]
    starts: list[int] = []
    total = 0
    for tensor in tensors:
        starts.append(total)
        total += -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT
    packed = torch.empty(total, dtype=torch.uint8)
    for start, tensor in zip(starts, tensors, strict=True):
        view_as(packed, start, tensor).copy_(tensor)
    placed = packed.to(where)
    return [view_as(placed, start, tensor) for start, tensor in zip(starts, tensors, strict=True)]


def view_as(packed: Tensor, start: int, like: Tensor) -> Tensor:
    """Of packed bytes, those from one on that a tensor like another takes, as such a tensor."""
    stop = start + like.numel() * like.element_size()
    return packed[start:stop].view(like.dtype).view(like.shape)


def device_named(name: str) -> Device:
    """`cpu` or `cuda:N`. Raises RequestError for another name, or a card that is not there."""
    if name == "cpu":
        return Cpu()
    found = re.fullmatch(r"cuda(?::(\d+))?", name)
    if not found:
        raise RequestError(f'device "{name}" is not understood; write auto, cpu or cuda:0')
    return Cuda(int(found[1] or 0))


def best_device() -> tuple[Device, str | None]:
    """The card with the most free memory, or else the CPU; and why a card that is there cannot be used."""
    if not any(Path(driver).exists() for driver in DRIVERS):
        return Cpu(), None
    count = count_cards()
    if not count:
        return Cpu(), f"there is an NVIDIA driver, but {_why_no_card()}; computing on the CPU"
    cards = [Cuda(index) for index in range(count)]
    return (cards[0] if count == 1 else max(cards, key=_free_or_none)), None


def _free_or_none(card: Cuda) -> int:
    try:
        return card.glance()
    except RequestError:  # it cannot be used
        return -1


def count_cards() -> int:
    """How many cards torch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _why_no_card() -> str:
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return f"torch {torch.__version__}, built for CUDA {torch.version.cuda}, finds no card that it can use"


def _version(torch_version: str) -> str:
    return torch_version.partition("+")[0]
