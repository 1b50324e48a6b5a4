"""The licence gate: what may be used is decided before anything is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from zoo_core import settings
from zoo_core.errors import LicenseRefused, UsageError

if TYPE_CHECKING:
    from zoo_core.contract.card import Licenses

PARTS = ("code", "weights", "data")


def require_license(name: str, licenses: Licenses, accepted: Sequence[str] | None) -> None:
    """Refuse weights of which a licence was not accepted, before anything is downloaded.

    Args:
        name: What they are called, for the message.
        licenses: What their card says.
        accepted: SPDX names or patterns, in any case. A plain one counts for code, weights and data alike; one such as
            ``"data:unknown"`` counts for that part alone. ``"unknown"`` is a licence of its own. None means
            ``ZOO_LICENSES``, and without that, anything.

    Raises:
        LicenseRefused: One of the three is not accepted; the message says which.
        UsageError: An item of ``accepted`` is malformed.

    Example:
        >>> from zoo_core.plugin import Licenses
        >>> require_license("acme/net@V1", Licenses("mit", "cc-by-nc-4.0"), ["mit", "data:unknown"])
        Traceback (most recent call last):
        ...
        zoo_core.errors.LicenseRefused: the licence of acme/net@V1 was not accepted
          expected: mit, data:unknown
          got: weights: cc-by-nc-4.0
          done: nothing was downloaded
          next step: read it; to accept, add "weights:cc-by-nc-4.0" to licenses
    """
    if accepted is None:
        accepted = settings.licenses()
    if accepted is None:
        return
    if isinstance(accepted, str):
        raise UsageError(f"licenses={accepted!r}", expected="a list, such as ['apache-2.0', 'mit']")
    rules = [_accepted_part(item) for item in accepted]
    named = {part: getattr(licenses, part).lower() for part in PARTS}
    refused = {
        part: value
        for part, value in named.items()
        if not any(scope in ("*", part) and fnmatchcase(value, pattern) for scope, pattern in rules)
    }
    if refused:
        missing = " and ".join(f'"{part}:{value}"' for part, value in refused.items())
        raise LicenseRefused(
            f"the licence of {name} was not accepted",
            expected=", ".join(accepted) or "no licence at all",
            got=", ".join(f"{part}: {value}" for part, value in refused.items()),
            done="nothing was downloaded",
            hint=f"read {'it' if len(refused) == 1 else 'them'}; to accept, add {missing} to licenses",
            licenses=licenses,
            refused=refused,
        )


def _accepted_part(item: object) -> tuple[str, str]:
    """The part that an accepted licence counts for, or ``"*"``, and its pattern."""
    if not isinstance(item, str) or not item.strip():
        raise UsageError(f"licenses has {item!r}", expected="SPDX names, such as 'apache-2.0' or 'data:unknown'")
    part, colon, pattern = item.strip().lower().partition(":")
    if not colon:
        return "*", part
    if part not in PARTS:
        raise UsageError(f"licenses has {item!r}", expected=f"one of {', '.join(PARTS)} before the colon")
    return part, pattern
