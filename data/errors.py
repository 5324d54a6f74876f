"""The one exception for a user's mistake, and the checks of ranges that several rooms need."""

import math


class UserError(Exception):
    """Ends the command with its sentence and its exit code; see `experiments.launch`."""

    exit_code = 2


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{key}={value} is not allowed; choose {' or '.join(allowed)}")


def in_range(key: str, value: float | None, low: float, high: float = math.inf) -> None:
    """Both ends included; None passes, NaN and an infinite value do not."""
    if value is not None and not (low <= value <= high and math.isfinite(value)):
        limits = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise UserError(f"{key}={value} is out of range; it must be {limits}")


def check_seed(key: str, value: int) -> None:
    in_range(key, value, 0, 2**32 - 1)
