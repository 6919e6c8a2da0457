"""How do gigabytes come from files into a model? In pieces, by a few threads, each byte once.

Memory for a weight is made on the device, in its dtype. A piece of a file is then read straight into it (on a CPU, when
the dtypes agree), or through a small buffer per thread: pinned, so that a GPU copies one piece while other threads read
the next ones; converted on the way when the file's dtype is another. So the host holds `THREADS` pieces beside the
weights, however large the model is. Nothing is mapped into memory: a mapped file that shrinks kills the process.
"""

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from llmbench.models.weights import BYTES, Stored

THREADS = 8
PIECE = 2**23
"""Elements read at once: 16 MiB of bfloat16."""

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class _Piece:
    """Consecutive elements of a tensor: where they lie, and where they go."""

    stored: Stored
    begin: int  # element
    target: torch.Tensor  # [n], a view of the weight


class Reader:
    """Threads that read pieces; each has a buffer and, on a GPU, a stream, and keeps them until the reader is left."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(max_workers=THREADS)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def fill(self, targets: Iterable[tuple[torch.Tensor, Stored]]) -> None:
        """Overwrite contiguous tensors, all of one device, with what the files hold.

        May be called again while earlier weights are in use.

        Raises:
            OSError: a file cannot be read, or ends before its header says.
        """
        pieces = [
            _Piece(stored, begin, target.view(-1)[begin : begin + PIECE])
            for target, stored in targets
            for begin in range(0, stored.elements, PIECE)
        ]
        if pieces and pieces[0].target.is_cuda:
            # memory that was just made may still be in use by what was queued before
            torch.cuda.synchronize(pieces[0].target.device)
        for _ in self._pool.map(self._read, pieces):
            pass

    def _read(self, piece: _Piece) -> None:
        """Fill one piece's target, and wait until it is there."""
        dtype, target = _DTYPES[piece.stored.dtype], piece.target
        if target.device.type == "cpu" and target.dtype == dtype:
            _read_into(piece, target)
            return
        buffer = self._buffer(target.device)[: target.numel() * dtype.itemsize].view(dtype)
        _read_into(piece, buffer)
        if target.device.type == "cpu":
            target.copy_(buffer)
            return
        stream = self._stream(target.device)
        with torch.cuda.stream(stream):
            if target.dtype == dtype:
                target.copy_(buffer, non_blocking=True)
            else:
                target.copy_(buffer.to(target.device, non_blocking=True))
        stream.synchronize()  # the buffer is free again, and so is what the conversion took

    def _buffer(self, device: torch.device) -> torch.Tensor:
        """Bytes for the widest type, pinned where a GPU will fetch them."""
        if not hasattr(self._own, "buffer"):
            size = PIECE * max(BYTES.values())
            self._own.buffer = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        buffer: torch.Tensor = self._own.buffer
        return buffer

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        if not hasattr(self._own, "stream"):
            self._own.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream: torch.cuda.Stream = self._own.stream
        return stream


def _read_into(piece: _Piece, memory: torch.Tensor) -> None:
    """Read a piece's bytes into contiguous host memory [n] of its own type."""
    view = memoryview(memory.view(torch.uint8).numpy())  # type: ignore[arg-type]
    with piece.stored.path.open("rb", buffering=0) as file:
        file.seek(piece.stored.begin + piece.begin * BYTES[piece.stored.dtype])
        done = 0
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise OSError(f"{piece.stored.path.name} ended early")
            done += count
