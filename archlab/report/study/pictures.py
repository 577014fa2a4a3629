"""Pictures as text within a page, made smaller where the page would get too large."""

import base64
import io
from pathlib import Path

from ...markup import Html, escaped

KINDS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".gif": "gif", ".webp": "webp", ".svg": "svg+xml"}
LARGEST = 150_000  # bytes of one picture on a page of many


def embedded(path: Path, shows: str, *, width: int | None = None, most: int = LARGEST) -> Html:
    """An ``<img>`` that holds its picture.

    Args:
        path: The file; its ending says what it is.
        shows: For those who do not see it.
        width: Pixels at most.
        most: Bytes; a larger picture gets fewer pixels until it fits.

    Returns:
        The tag; a line of text for what is no picture.
    """
    try:
        content, kind = _fitting(path, width, most)
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises of a file that is none
        return Html(f"<p>{escaped(f'{path.name} is no picture that can be shown: {error}')}</p>")
    data = base64.b64encode(content).decode()
    return Html(f'<img alt="{escaped(shows)}" src="data:image/{kind};base64,{data}">')


def size_of(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels; None for what is no picture of pixels."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.size
    except (OSError, ValueError, SyntaxError):
        return None


def _fitting(path: Path, width: int | None, most: int) -> tuple[bytes, str]:
    from PIL import Image  # at first use: most of the time no page is made

    kind, content = KINDS[path.suffix.lower()], path.read_bytes()
    if kind == "svg+xml":
        return content, kind
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        small = picture.convert("RGB")
    if len(content) <= most and (width is None or small.width <= width):
        return content, kind
    scale = min(1.0, (width or small.width) / small.width)
    while True:
        shown = small.resize((max(1, round(small.width * scale)), max(1, round(small.height * scale))))
        for colours in (256, 64):  # figures have few
            drawn = io.BytesIO()
            shown.quantize(colours).save(drawn, "png", optimize=True)
            if drawn.tell() <= most or shown.width <= 64:
                return drawn.getvalue(), "png"
        scale *= 0.8
