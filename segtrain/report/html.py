"""Self-contained HTML pages: templates, pictures inside, nothing from the network."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from segtrain.files import write_text

TEMPLATES = Path(__file__).parent / "templates"


def write_page(file: Path, template: str, **values) -> None:
    """Fill a template, every value escaped. Raises DiskError."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    write_text(file, environment.get_template(template).render(**values))


def inline(picture: np.ndarray, width: int = 480) -> str:
    """A data: address of uint8 [H, W, 3], scaled down to `width`, or up when it is less than half of that."""
    image = Image.fromarray(picture)
    times = width // (2 * image.width)
    if times > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
