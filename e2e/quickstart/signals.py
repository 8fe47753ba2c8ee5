"""Signals that end the quickstart."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO_SECONDS = 1


class Interrupted(BaseException):
    """Somebody wants it to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Turns a signal into `Interrupted`, but not between the start of a process and its place in our books."""

    def __init__(self) -> None:
        self._held = False
        self._pending: int | None = None
        self._echo_until = 0.0
        for number in ENDING:
            signal.signal(number, self._arrived)

    def _arrived(self, number: int, _frame: object) -> None:
        if self._held:
            self._pending = number
        # One Ctrl-C may arrive twice, by way of make; the second must not disturb what the first has begun. Later ones
        # count again, since Python drops what is raised inside of a finalizer.
        elif time.monotonic() >= self._echo_until:
            self._echo_until = time.monotonic() + ECHO_SECONDS
            raise Interrupted(number)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._pending is not None:
                self._arrived(self._pending, None)

    def ignore(self) -> None:
        """From here on nothing interrupts: what is left to do is to stop, which is bounded."""
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
