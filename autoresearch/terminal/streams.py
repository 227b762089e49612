"""Output that nobody reads any more: a terminal that was closed, a pipe whose reader has gone. It ends nothing here."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Lasting(io.RawIOBase):
    """A file descriptor to write to. Once its reader is gone it leads nowhere, for all who write to that descriptor.

    Other errors are errors: a full disk must not pass for a reader that lost interest.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Asked now: a terminal that is gone is none any more. A disk's EIO is another thing.
        is_terminal = stat.S_ISCHR(os.fstat(descriptor).st_mode)
        self._gone = {errno.EPIPE, errno.EIO, errno.ENXIO} if is_terminal else {errno.EPIPE, errno.ECONNRESET}

    def write(self, data: ReadableBuffer, /) -> int:
        left = memoryview(data).cast("B")
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
            return memoryview(data).nbytes
        except OSError as error:
            if error.errno not in self._gone:
                raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._descriptor)
        os.close(nowhere)
        return memoryview(data).nbytes

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


def outlive_readers() -> None:
    """From now on stdout and stderr take what is written to them for as long as the process lives."""
    for descriptor in (0, 1, 2):  # one that is closed would be given to the next file that is opened
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest that is free, which is this one
            assert nowhere == descriptor
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)


def _lasting(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:  # it was closed when Python started
        stream = open(descriptor, "w", closefd=False, encoding="utf-8")  # noqa: SIM115  for as long as the process lives
    try:
        if stream.fileno() != descriptor or not isinstance(stream, io.TextIOWrapper):
            return stream
    except (OSError, ValueError):  # no file: a test, or a notebook, that takes what is said
        return stream
    stream.flush()
    return io.TextIOWrapper(
        # Without a buffer between, which refuses a signal handler that speaks while somebody else does.
        cast("io.BufferedWriter", Lasting(descriptor)),
        encoding=stream.encoding,
        errors=stream.errors,
        newline="\n",
        line_buffering=stream.line_buffering,
        write_through=True,
    )
