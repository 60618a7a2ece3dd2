"""Pictures are registered: a picture more is drawn, left out, refused, and shown without a line elsewhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from matplotlib.figure import Figure
from PIL import Image

from menvae.conformance.pictures import example
from menvae.errors import UserError
from menvae.pictures import Animation, Picture, PictureContext, build_pictures, draw_pictures, registered_pictures
from menvae.presentation.figures import new_figure
from menvae.registry import register, unregister
from menvae.runs.report import write_report

Register = Callable[..., type[Picture]]


@pytest.fixture
def registered() -> Iterator[Register]:
    """Register pictures of this test alone."""
    names: list[str] = []

    def add(name: str, draw: Callable[[PictureContext], Figure] | None = None, **constants: Any) -> type[Picture]:
        def blank(_: object, context: PictureContext) -> Figure:
            return draw(context) if draw is not None else new_figure(3.0, 1.0, name)

        declared = {"file": f"{name}.png", "needs": frozenset({"val"}), "alt": name}
        own = {"__module__": __name__, "__doc__": "A picture.", "draw": blank}
        kind = type("Kind", (Picture,), {**declared, **constants, **own})
        names.append(name)
        register("picture", name)(kind)
        return kind

    yield add
    for name in names:
        unregister("picture", name)


def drawn(folder: Path, when: str = "after_training", settings: dict[str, Any] | None = None) -> set[str]:
    draw_pictures(build_pictures(settings or {}), example(24), when, folder)  # type: ignore[arg-type]
    return {path.name for path in folder.glob("*")}


AFTER = {
    *("training_curves.png", "latent_scatter.png", "leak_matrix.png", "traversals.png", "regression.png"),
    *("walks.gif", "swaps.png", "interventions.png", "calibration.png", "profile.png"),
}


def test_files_of_a_run(tmp_path: Path) -> None:
    assert drawn(tmp_path / "before", "before_training") == {"schedule.png", "target_correlation.png"}
    assert drawn(tmp_path / "after") == AFTER


def test_order_is_that_of_the_report(registered: Register) -> None:
    registered("between", order=25)
    registered("first_of_all", section="trained", order=1)
    assert list(registered_pictures()) == [
        *("first_of_all", "target_correlation", "training_curves", "schedule", "profile"),
        *("latent_scatter", "leak_matrix", "between", "traversals", "walks", "swaps", "interventions"),
        *("regression", "calibration"),
    ]


def test_one_more_is_drawn_and_one_is_left_out(tmp_path: Path, registered: Register) -> None:
    registered("mine")
    registered("of_a_table", needs=frozenset({"targets"}))
    settings = {"leak_matrix": None, "traversals": {"name": "traversals"}}
    assert drawn(tmp_path, settings=settings) == AFTER - {"leak_matrix.png"} | {"mine.png", "of_a_table.png"}


@pytest.mark.parametrize("name", ["latent_scatter", "leak_matrix", "regression"])
def test_titles_name_the_judged_split(name: str) -> None:
    (picture,) = [part for part in build_pictures({}) if isinstance(part, registered_pictures()[name])]
    for split, words in (("val", "validation split"), ("test", "test split"), ("cohort", "another cohort")):
        figure = picture.draw(replace(example(24), split=split))
        titles = " ".join(text.get_text() for text in (*figure.texts, *(axes.title for axes in figure.axes)))
        assert words in titles
        assert ("validation" in titles) == (split == "val")


def test_one_is_drawn_where_its_needs_are_met(tmp_path: Path) -> None:
    context = PictureContext(layout=example(2).layout, supervision={}, val=example(2).val)
    draw_pictures(build_pictures({}), context, "after_training", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["latent_scatter.png"]


def test_one_that_fails_costs_only_itself(
    tmp_path: Path, registered: Register, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: PictureContext) -> Figure:
        raise ZeroDivisionError("nothing to divide by")

    registered("broken", fail, order=0)
    with caplog.at_level(logging.WARNING, logger="menvae.pictures"):
        assert drawn(tmp_path) == AFTER
    assert [record.getMessage() for record in caplog.records] == [f"cannot draw broken.png of {__name__}"]


@pytest.mark.parametrize(
    ("constants", "words"),
    [
        ({"file": ""}, "file: '' is not the name of a PNG file"),
        ({"file": "a/b.png"}, "file: 'a/b.png' is not the name of a PNG file"),
        ({"file": "leak_matrix.png"}, "picture 'leak_matrix' has the same file 'leak_matrix.png'"),
        ({"when": "now"}, "when: 'now' is not allowed; choose from before_training, after_training"),
        ({"section": "end"}, "section: 'end' is not allowed; choose from trained, training, sees, latent"),
        (
            {"when": "before_training"},
            "needs: val is not known before training; choose from correlation, schedules, volumes",
        ),
    ],
)
def test_wrong_declarations_are_refused(registered: Register, constants: dict[str, Any], words: str) -> None:
    registered("mine", **constants)
    with pytest.raises(UserError) as caught:
        build_pictures({})
    assert str(caught.value) == f"picture 'mine': {words}; fix or uninstall package '{__name__.partition('.')[0]}'"


def test_an_animation_is_a_gif_file_and_no_other_picture_is(tmp_path: Path, registered: Register) -> None:
    class Blinking(Animation):
        """Two frames."""

        file, alt, needs = "blinking.gif", "blinking", frozenset({"val"})

        def frames(self, context: PictureContext) -> list[Figure]:
            """Return two frames."""
            return [new_figure(2.0, 1.0, title) for title in ("on", "off")]

    register("picture", "blinking")(Blinking)
    try:
        assert "blinking.gif" in drawn(tmp_path)
        with Image.open(tmp_path / "blinking.gif") as picture:
            assert picture.n_frames == 2
        Blinking.file = "blinking.png"
        with pytest.raises(UserError, match=r"file: 'blinking\.png' is not the name of a GIF file"):
            build_pictures({})
    finally:
        unregister("picture", "blinking")
    registered("still", file="still.gif")
    with pytest.raises(UserError, match=r"file: 'still\.gif' is not the name of a PNG file"):
        build_pictures({})


def test_what_is_no_picture_is_refused() -> None:
    class Other:
        """No picture."""

        file: ClassVar[str] = "other.png"

    register("picture", "other")(Other)
    try:
        with pytest.raises(UserError, match=r"^picture 'other': it is not a subclass of menvae\.pictures\.Picture; "):
            build_pictures({})
    finally:
        unregister("picture", "other")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"leak_matrx": None},
            "pictures.parts.leak_matrx: 'leak_matrx' is not registered; did you mean 'leak_matrix'?",
        ),
        ({"mine": {"name": "leak_matrix"}}, "pictures.parts.mine: 'mine' is not registered; "),
        (
            {"traversals": {"name": "leak_matrix"}},
            "pictures.parts.traversals.name: 'leak_matrix' is not allowed; it must be 'traversals', like the key",
        ),
        ({"traversals": {"name": "traversals", "rows": 1}}, "pictures.parts.traversals.rows: no such key"),
    ],
)
def test_wrong_keys_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        build_pictures(settings)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_report_shows_one_more_in_its_place(tmp_path: Path, registered: Register) -> None:
    registered("mine", order=25, caption="How to read mine.")
    (tmp_path / "status.json").write_text(json.dumps({"state": "finished"}))
    drawn(tmp_path / "pictures")
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    captions = ["A partition should predict", "How to read mine.", "What the decoder changes"]
    places = [page.index(caption) for caption in captions]
    assert places == sorted(places)
    assert page.count("How to read mine.") == 1
    with Image.open(tmp_path / "pictures" / "mine.png") as picture:
        assert picture.size == (450, 150)  # 3 x 1 inches at 150 dpi


def test_report_misses_one_that_should_be_there_and_none_that_was_left_out(
    tmp_path: Path, registered: Register
) -> None:
    registered("mine")
    registered("unwanted")
    (tmp_path / "config.yaml").write_text("pictures: {parts: {unwanted: null}}\nmodel: {supervision: {vol: [v]}}\n")
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "pictures/mine.png is missing." in page
    assert "unwanted.png" not in page.partition("<pre>")[0]
