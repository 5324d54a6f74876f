"""The one exception for a user's mistake, and the checks of ranges that several rooms need."""

import math

LONGEST = 600  # characters of a sentence; a broken file can have a name of a column of 100,000


class UserError(Exception):
    """Ends the command with its sentence and its exit code; see `experiments.launch`.

    What cannot be printed is escaped and what is too long is cut in its middle: a sentence begins with the place and
    ends with what to do, and what stands between may come from a file that anybody wrote.
    """

    exit_code = 2

    def __init__(self, said: str) -> None:
        if not said.isprintable():
            said = "".join(c if c.isprintable() else repr(c)[1:-1] for c in said)
        if len(said) > LONGEST:
            said = f"{said[: LONGEST // 2]} ... {said[5 - LONGEST // 2 :]}"
        super().__init__(said)


def in_one_line(error: Exception) -> str:
    """What a library says, for the middle of a sentence."""
    return " ".join(str(error).split())


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
