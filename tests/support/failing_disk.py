"""A disk that fails or hangs when told to."""

import errno
import os
import threading

from libs.audit.block_file import Disk


class FailingDisk:
    """Gives a `Disk` whose calls fail with `fault` while it is set, and hang while `hang` is."""

    def __init__(self) -> None:
        self.fault: int | None = None
        self.failing = "write"
        self.partial = 0
        """Bytes that a failing write still writes."""
        self.running = threading.Event()
        self.running.set()
        self.syncs = 0

    def disk(self) -> Disk:
        """The system calls to hand to the writer."""
        return Disk(write=self._write, fdatasync=self._fdatasync, ftruncate=self._ftruncate)

    def hang(self) -> None:
        """Makes the next fdatasync wait for `go_on`."""
        self.running.clear()

    def go_on(self) -> None:
        """Ends a hang."""
        self.running.set()

    def _write(self, descriptor: int, data: bytes) -> int:
        if self.fault is not None and self.failing == "write":
            if self.partial:
                os.write(descriptor, data[: self.partial])
            self._raise()
        return os.write(descriptor, data)

    def _fdatasync(self, descriptor: int) -> None:
        self.running.wait(30)
        if self.fault is not None and self.failing == "fdatasync":
            self._raise()
        self.syncs += 1
        os.fdatasync(descriptor)

    def _ftruncate(self, descriptor: int, length: int) -> None:
        if self.fault is not None and self.failing == "ftruncate":
            self._raise()
        os.ftruncate(descriptor, length)

    def _raise(self) -> None:
        fault = self.fault or errno.EIO
        raise OSError(fault, os.strerror(fault))
