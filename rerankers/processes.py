"""How many processes share this training; torchrun and accelerate launch say it to each. Light: no torch."""

import os


def n_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))
