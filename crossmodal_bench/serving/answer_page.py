"""Search results as one self-contained page: the query and the answers, with pictures if available."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from crossmodal_bench.core.errors import BadInput, printable
from crossmodal_bench.serving.galleries import Gallery
from crossmodal_bench.serving.trained_run import Answer

SIDE = 240
"""Longer side of a picture on the page, in pixels."""
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --page: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9da7b3; --line: #30363d; --page: #0d1117; }
}
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: .5rem 0; overflow-wrap: anywhere; }
p { margin: .25rem 0; }
.soft { color: var(--soft); font-size: .875rem; overflow-wrap: anywhere; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1rem; padding: 0;
  list-style: none; }
li { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem; }
img { display: block; max-width: 100%; height: auto; border-radius: .25rem; background: #fff; }
"""


def answer_page(
    title: str,
    remarks: Sequence[str],
    answers: Sequence[Answer],
    searched: Gallery,
    query_picture: Image.Image | None = None,
) -> str:
    """The HTML document; all text is escaped here.

    Args:
        title: the query.
        remarks: which run answered, and notes on the answers.
        answers: best first.
        searched: the gallery they are from; its pictures are shown.
        query_picture: the picture used as the query, if any.
    """
    lines = "".join(f'<p class="soft">{_text(remark)}</p>\n' for remark in remarks)
    asked = "" if query_picture is None else f"<p>{_image(query_picture, 'the query')}</p>\n"
    items = "\n".join(_item(answer, searched) for answer in answers)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_text(title)}</h1>\n{lines}{asked}<ol>\n{items}\n</ol>\n</body>\n</html>\n"
    )


def _item(answer: Answer, searched: Gallery) -> str:
    parts = []
    if searched.picture_of is not None and answer.image:
        # A picture deleted in the meantime must not break the page.
        try:
            parts.append(_image(searched.picture_of(answer.image), answer.image))
        except (BadInput, KeyError, OSError):
            parts.append('<p class="soft">(picture not available)</p>')
    parts.append(f"<p><strong>{answer.rank}.</strong> {_text(answer.id)}</p>")
    parts.append(f'<p class="soft">score {answer.score:.4f}</p>')
    parts += [f"<p>{_text(caption)}</p>" for caption in answer.captions]
    return f"<li>{''.join(parts)}</li>"


def _image(picture: Image.Image, text: str) -> str:
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    encoded = base64.b64encode(stream.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{encoded}" alt="{_text(text)}">'


def _text(text: str) -> str:
    return escape(printable(text))
