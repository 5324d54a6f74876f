"""What a model reads of an item: a text, a picture, or both. Known by its content, wherever the picture lies."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.dataset import sha256
from data.pictures import Unavailable, read_picture

THINNEST = 100  # sides' ratio above which a picture is a line that processors refuse


@dataclass(frozen=True)
class Content:
    text: str
    picture: str | np.ndarray | None  # as in Catalog.image

    def key(self) -> str:
        if isinstance(self.picture, np.ndarray):
            return sha256(self.text, str(self.picture.shape), self.picture)
        return sha256(self.text, Path(self.picture).read_bytes() if self.picture else "")

    def open(self, side: int) -> Image.Image | None:
        """RGB within side x side pixels; Unavailable where it cannot be read."""
        if self.picture is None:
            return None
        if isinstance(self.picture, np.ndarray):
            picture = Image.fromarray(self.picture)
            picture.thumbnail((side, side))
        else:
            picture = read_picture(Path(self.picture).read_bytes(), side)
        if max(picture.size) > THINNEST * min(picture.size):
            raise Unavailable
        return picture
