"""How one attempt to get bytes can go wrong. Private to this room: what leaves it is a WeightsError."""

from __future__ import annotations


class Failure(Exception):
    """One attempt failed; the text says why, in words for a user.

    Attributes:
        route: Where the answer came from, where that is not the host that was asked; added to the text.
    """

    route = ""

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.route})" if self.route else super().__str__()


class Transient(Failure):
    """It may work when it is tried again.

    Args:
        reason: Why it failed.
        cost: How much of the budget of attempts it used: more when it took long to notice.
        wait: For how many seconds the server asked not to be called.
    """

    def __init__(self, reason: str, *, cost: int = 1, wait: float | None = None) -> None:
        super().__init__(reason)
        self.cost = cost
        self.wait = wait


class Permanent(Failure):
    """It will not work when it is tried again in the same way."""


class WrongContent(Failure):
    """Bytes came, but they cannot be those of the file.

    Args:
        reason: Why they cannot.
        again: Whether the source may be asked once more from the first byte.
    """

    def __init__(self, reason: str, *, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


class StaleRange(Failure):
    """What we have cannot be continued; start again from the first byte."""
