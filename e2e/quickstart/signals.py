"""Signals that end the quickstart."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


class Interrupted(BaseException):
    """Somebody wants it to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Turns the first signal into `Interrupted`, but not between the start of a process and its place in our books."""

    def __init__(self) -> None:
        self._held = False
        self._pending: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._arrived)

    def _arrived(self, number: int, _frame: object) -> None:
        if self._held:
            self._pending = number
        else:
            self.ignore()
            raise Interrupted(number)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self._held = True
        yield
        self._held = False
        if self._pending is not None:
            self._arrived(self._pending, None)

    def ignore(self) -> None:
        """From here on nothing interrupts: what is left to do is to stop, which is bounded."""
        self._held = True
