from __future__ import annotations

from PIL import Image

from crossmodal_bench.jobs.encoded_gallery import EncodedGallery
from crossmodal_bench.serving.answer_page import answer_page
from crossmodal_bench.serving.galleries import Gallery
from crossmodal_bench.serving.trained_run import Answer


def test_a_page_shows_pictures_that_are_at_hand_and_escapes_what_files_say() -> None:
    def picture_of(name: str) -> Image.Image:
        if name == "gone.png":
            raise KeyError(name)
        return Image.new("RGB", (600, 300), "red")

    searched = Gallery(EncodedGallery("x"), "2 pictures", picture_of)
    answers = [
        Answer(1, "a<b>.png", 0.5, ("two <script>alert(1)</script> dogs\x1b[31m",), "a<b>.png"),
        Answer(2, "gone.png", 0.25, (), "gone.png"),
    ]
    page = answer_page("<dogs>", ["by & for"], answers, searched, Image.new("RGB", (10, 10)))
    assert page.count("data:image/jpeg;base64,") == 2 and "not available" in page
    assert "<script>" not in page and "&lt;script&gt;" in page and "\x1b" not in page
    assert "<h1>&lt;dogs&gt;</h1>" in page and "by &amp; for" in page and "a&lt;b&gt;.png" in page
    assert "http://" not in page and "https://" not in page
    bare = answer_page("words", [], answers, Gallery(EncodedGallery("x"), "nothing"))
    assert "<img" not in bare
