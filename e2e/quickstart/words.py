"""What the quickstart says, and how it says that it failed."""

from __future__ import annotations

import sys


class Failure(Exception):
    """Ends the quickstart with words that say what to do."""


def say(text: str = "") -> None:
    print(text, flush=True)


def complain(text: str) -> None:
    print(f"\nquickstart: {text}", file=sys.stderr, flush=True)
