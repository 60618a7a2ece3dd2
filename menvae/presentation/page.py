"""Self-contained HTML pages with a common frame and style, embedded pictures, and no network requests.

The templates escape everything that comes from files, and a content security policy forbids all requests; it allows a
page's single script by its hash, so nothing else can run.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

PICTURE_BUDGET_BYTES: Final = 3_400_000
"""Total size of all embedded pictures; base64 adds a third, so a page stays below 5 MB."""
LARGE_PICTURE_BYTES: Final = 300_000
EMBEDDED_WIDTH: Final = 1600
CSS_PIXELS_PER_PICTURE_PIXEL: Final = 96 / 150
CSS_PIXELS_PER_ANIMATION_PIXEL: Final = 96 / 100
"""Pictures are drawn at 150 dpi, animations at 100; a CSS pixel is 1/96 inch."""


def render(template: Path, content: Mapping[str, Any], script: str = "") -> str:
    """Render a page.

    Args:
        template: a file that extends ``frame.html``.
        content: variables of the template; the frame uses ``title`` and ``subtitle``.
        script: trusted JavaScript of the page.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).with_name("templates")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template(template.name).render(content, script=script, script_digest=digest)


@dataclass(frozen=True)
class Picture:
    """An embedded picture: data URI, alternative text, caption, and size in CSS pixels."""

    source: str
    alt: str
    caption: str
    width: int
    height: int


@dataclass
class Album:
    """Embeds pictures until the size budget of the page is used up."""

    left_bytes: int = PICTURE_BUDGET_BYTES
    left_out: int = field(default=0)

    def embed(self, path: Path, alt: str, caption: str = "", always: bool = False) -> Picture | None:
        """Return the embedded picture; None if it is unreadable or, unless ``always``, exceeds the budget."""
        try:
            data, kind, (width, height) = _encoded(path)
        except (OSError, ValueError):
            return None
        if len(data) > self.left_bytes and not always:
            self.left_out += 1
            return None
        self.left_bytes -= len(data)
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
        scale = CSS_PIXELS_PER_ANIMATION_PIXEL if kind == "gif" else CSS_PIXELS_PER_PICTURE_PIXEL
        return Picture(source, alt, caption, round(width * scale), round(height * scale))


def _encoded(path: Path) -> tuple[bytes, str, tuple[int, int]]:
    """Return bytes, format and original size; large PNG files are scaled down and encoded as WebP."""
    data = path.read_bytes()
    with Image.open(io.BytesIO(data), formats=("PNG", "GIF")) as picture:
        size, kind = picture.size, str(picture.format).lower()
        if kind == "gif" or len(data) <= LARGE_PICTURE_BYTES:
            return data, kind, size
        scale = min(1.0, EMBEDDED_WIDTH / size[0])
        smaller = picture.convert("RGB").resize((round(size[0] * scale), max(1, round(size[1] * scale))))
    target = io.BytesIO()
    smaller.save(target, format="WEBP", quality=88, method=4)
    return target.getvalue(), "webp", size
