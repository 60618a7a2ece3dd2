"""The report answers whether a run passed, escapes everything, and names what is missing."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from menvae.runs.gates_table import gates_table
from menvae.runs.report import write_report

HOSTILE = "</pre><script>alert('x')</script><img src=x onerror=alert(1)> \"quoted\" & {{ 7 * 7 }}"
CONFIG = """
name: dcor_phantom
seed: 42
model:
  name: semivae
  z_dim: 128
  partitions: {vol: 24, loc: 8, shape: 12, residual: null}
  supervision: {vol: [vol_total, vol_ncr], loc: [loc_x]}
decoder: {name: sbd}
loss: {name: dcor, lambda_vol: 20.0, lambda_dcor: 5.0, terms: {dcor: {name: dcor}}}
data: {name: phantom, roi_size: [32, 32, 32], spacing_mm: [5.0, 5.0, 5.0], modalities: [t1c, t1n]}
trainer: {max_epochs: 20, batch_size: 32, precision: fp32}
"""


def gate(name: str, value: float | None, target: float, comparison: str = ">", reason: str = "") -> dict[str, Any]:
    passed = value is not None and (value > target if comparison == ">" else value < target)
    entry = {"name": name, "value": value, "target": target, "comparison": comparison, "passed": passed}
    return {**entry, "reason": reason} if reason else entry


def gates(mean_z: float | None = 1.81, shuffled: float | None = 2.1) -> list[dict[str, Any]]:
    return [
        gate("vol_r2", 0.9123, 0.85),
        gate("max_dcor", 0.2, 0.35, "<"),
        gate("mean_z_ratio", mean_z, 1.5),
        gate("shuffled_ratio", shuffled, 1.3),
    ]


def write_picture(path: Path, size: tuple[int, int] = (60, 40), noise: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3)
    generator = np.random.default_rng(len(str(path)))
    pixels = generator.integers(0, 256, shape, dtype=np.uint8) if noise else np.full(shape, 200, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished run."""
    run = tmp_path / "dcor_phantom_3f9ac1"
    run.mkdir()
    (run / "config.yaml").write_text(CONFIG)
    (run / "gates.json").write_text(json.dumps({"gates": gates(), "passed": True, "note": "48 subjects: chance"}))
    rows = [{"epoch": epoch, "val_epoch/loss": 1 / epoch, "sem/vol_r2": None} for epoch in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"epoch": 4, "val')
    environment = {"command": ["menvae-train", "seed=42", "data.root=my data"], "versions": {"torch": "2.13.0"}}
    (run / "environment.json").write_text(json.dumps(environment))
    (run / "summary.json").write_text(json.dumps({"duration_s": 171.2, "num_parameters": 2645123, "mean": 0.5}))
    (run / "targets.json").write_text(json.dumps({"hash": "ab12"}))
    (run / "splits.csv").write_text("subject_id,split\na,train\nb,train\nc,validation\n")
    for name in ("schedule", "training_curves", "traversals", "leak_matrix", "latent_scatter", "regression", "swaps"):
        write_picture(run / "pictures" / f"{name}.png")
    write_picture(run / "pictures" / "target_correlation.png")
    write_picture(run / "pictures" / "walks.gif")
    write_picture(run / "pictures" / "a_plugin.png")
    for epoch in (2, 10):
        write_picture(run / "pictures" / f"epoch_{epoch}" / "subject_a.png")
    return run


class Outline(HTMLParser):
    """Collects what the tests ask of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data if self._open[-1:] != ["style"] else ""

    def names(self) -> list[str]:
        return [tag for tag, _ in self.tags]


def read(run: Path) -> Outline:
    path = write_report(run)
    assert path == run / "report.html"
    assert not list(run.glob(".*.tmp"))
    outline = Outline(path.read_text(encoding="utf-8"))
    assert outline.unbalanced == []
    return outline


def test_answers_in_the_order_a_reader_asks(run_dir: Path) -> None:
    text = read(run_dir).text
    order = [
        "Did the run pass?",
        "The run passed all 4 gates.",
        "The decoder uses its latent space.",
        "1.81 times as large when z is replaced",
        "2.10 times as large when z is shuffled",
        "48 subjects: chance",
        "0.912",
        "What was trained?",
        "How did training go?",
        "3 epochs recorded.",
        "What does the model see?",
        "Epoch 10",
        "Epoch 2",
        "What does the latent space encode?",
        "How to reproduce this run",
        "menvae-train seed=42 'data.root=my data'",
        "torch",
    ]
    positions = [text.index(part) for part in order]
    assert positions == sorted(positions)


def test_says_what_was_trained(run_dir: Path) -> None:
    text = read(run_dir).text
    for fact in (
        "vol 24 | loc 8 | shape 12 | residual 84",
        "32 × 32 × 32 voxels of 5 × 5 × 5 mm",
        "2 train, 1 validation",
        "vol 20, dcor 5",
        "semivae, sbd",
        "vol_total, vol_ncr",
        "2 min 51 s",
        "2,645,123",
    ):
        assert fact in text


def test_is_self_contained(run_dir: Path) -> None:
    outline = read(run_dir)
    assert "script" not in outline.names()
    assert "link" not in outline.names()
    sources = [attributes["src"] for tag, attributes in outline.tags if tag == "img"]
    assert len(sources) == 12
    kinds = {str(source).partition(";base64,")[0] for source in sources}
    assert kinds == {"data:image/png", "data:image/gif"}
    links = [attributes["href"] for _, attributes in outline.tags if "href" in attributes]
    identifiers = {f"#{attributes['id']}" for _, attributes in outline.tags if "id" in attributes}
    assert set(links) == identifiers
    assert all(attributes.get("alt") for tag, attributes in outline.tags if tag == "img")
    assert "http://" not in outline.text
    page = (run_dir / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?://", page)


@pytest.mark.parametrize("collapsed", [True, False])
def test_warns_when_the_decoder_ignores_its_latent_space(run_dir: Path, collapsed: bool) -> None:
    # The collapse watch may stop a run before any gate exists; the ratios tell as well.
    listed = [] if collapsed else gates(1.04, 1.03)
    (run_dir / "gates.json").write_text(json.dumps({"gates": listed, "passed": False}))
    (run_dir / "summary.json").write_text(json.dumps({"collapsed": collapsed}))
    outline = read(run_dir)
    assert "posterior collapse. The decoder ignores its latent space" in outline.text
    assert "The decoder uses its latent space." not in outline.text
    assert ("div", {"class": "banner bad"}) in outline.tags


def test_warns_whatever_the_gates_of_the_decoder_are_called(run_dir: Path) -> None:
    listed = [
        {**gate, "name": f"mine_{index}", "metric": f"diag/{gate['name']}"}
        for index, gate in enumerate(gates(1.04, 1.03))
    ]
    (run_dir / "gates.json").write_text(json.dumps({"gates": listed, "passed": False}))
    assert "posterior collapse. The decoder ignores its latent space" in read(run_dir).text


def test_gates_say_what_their_metric_measures(run_dir: Path) -> None:
    listed = [
        {**gate("spread_r2", 3.0, 2.0), "metric": "mine/spread", "meaning": "Spread of the latents."},
        {**gate("loc_r2", 3.0, 2.0), "metric": "mine/other"},
        {**gate("independent", 0.2, 0.35, "<"), "metric": "indep/max_dcor"},
        gate("vol_r2", 0.9, 0.8),
    ]
    (run_dir / "gates.json").write_text(json.dumps({"gates": listed, "passed": True}))
    text = read(run_dir).text
    assert "Spread of the latents." in text
    assert "Mean R² of the vol targets on the validation split." in text, "as in files of earlier versions"
    assert "Largest distance correlation between two partitions" in text, "by its metric, in files without a meaning"
    assert "spread targets" not in text
    assert "loc targets" not in text


def test_says_why_there_are_no_interventions(run_dir: Path) -> None:
    reason = {"interventions": {"reason": "no reader is cached"}}
    (run_dir / "evaluation.json").write_text(json.dumps({"splits": {"val": reason, "test": reason}}))
    assert "No interventions: no reader is cached." in read(run_dir).text
    computed = {"interventions": {"changes": {}}}
    (run_dir / "evaluation.json").write_text(json.dumps({"splits": {"val": computed, "test": reason}}))
    assert "No interventions" not in read(run_dir).text


@pytest.mark.parametrize("lacks", [[], ["traversals", "volumes"]])
def test_pictures_that_a_run_cannot_have_are_not_missed(run_dir: Path, lacks: list[str]) -> None:
    (run_dir / "pictures" / "traversals.png").unlink()
    (run_dir / "summary.json").write_text(json.dumps({"lacks": lacks}))
    assert ("traversals.png" in read(run_dir).text) == (not lacks)


def test_rows_of_any_source_have_errors_of_their_columns(run_dir: Path) -> None:
    for epoch in (2, 10):
        (run_dir / "pictures" / f"epoch_{epoch}" / "subject_a.png").unlink()
    assert "Squared error of each column" not in read(run_dir).text
    (run_dir / "metrics.jsonl").write_text('{"epoch": 1, "val_epoch/mse_gene_7": 0.125}\n')
    text = read(run_dir).text
    assert "Squared error of each column" in text
    assert "No reconstructions" not in text
    assert re.search(r"gene_7\s*0\.125", text[text.index("Squared error of each column") :])


def test_warns_of_a_run_that_the_collapse_watch_stopped(run_dir: Path) -> None:
    (run_dir / "gates.json").unlink()
    (run_dir / "metrics.jsonl").write_text('{"epoch": 9, "diag/collapsed": 1.0}\n')
    assert "posterior collapse. The decoder ignores its latent space" in read(run_dir).text


@pytest.mark.parametrize(
    ("mean_z", "shuffled", "sentence"),
    [
        (1.3, 2.0, "uses its latent space, but less than required"),
        (None, None, "Whether the decoder uses its latent space is unknown."),
        (float("nan"), 1.4, "uses its latent space, but less than required"),
    ],
)
def test_is_honest_between_use_and_collapse(
    run_dir: Path, mean_z: float | None, shuffled: float | None, sentence: str
) -> None:
    (run_dir / "gates.json").write_text(json.dumps({"gates": gates(mean_z, shuffled), "passed": False}))
    text = read(run_dir).text
    assert sentence in text
    assert "The run did not pass" in text


def test_every_missing_file_is_named(tmp_path: Path) -> None:
    text = read(tmp_path).text
    for name in ("gates.json", "config.yaml", "metrics.jsonl", "environment.json", "training_curves.png"):
        assert name in text
    for name in ("schedule.png", "latent_scatter.png", "leak_matrix.png", "traversals.png", "regression.png"):
        assert f"pictures/{name} is missing." in text
    assert "No reconstructions" in text


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00\xff", '{"gates": 3}', '{"gates": [3, {}]}', ": : :"])
def test_damaged_files_do_not_stop_the_report(run_dir: Path, content: str) -> None:
    for path in run_dir.iterdir():
        if path.is_file():
            path.write_bytes(content.encode("latin-1"))
    for path in (run_dir / "pictures").rglob("*.png"):
        path.write_bytes(b"\x89PNG\r\n\x1a\n truncated")
    assert "pictures/schedule.png is missing." in read(run_dir).text


def test_everything_is_escaped(tmp_path: Path) -> None:
    run = tmp_path / "<b>run & {{ 1 }}"
    run.mkdir()
    entry = gate(HOSTILE, None, 1.0, reason=HOSTILE)
    (run / "gates.json").write_text(json.dumps({"gates": [entry], "note": HOSTILE}))
    nested = {HOSTILE: HOSTILE, "list": [HOSTILE], "nested": {HOSTILE: HOSTILE}, "command": HOSTILE}
    for name in ("environment.json", "summary.json", "targets.json"):
        (run / name).write_text(json.dumps(nested))
    (run / "config.yaml").write_text(json.dumps({"name": HOSTILE, "seed": HOSTILE, "model": {"partitions": nested}}))
    (run / "metrics.jsonl").write_text(json.dumps({"epoch": HOSTILE, HOSTILE: HOSTILE}))
    (run / "splits.csv").write_text('subject_id,split\na,"<script>alert(2)</script>"\n')
    write_picture(run / "pictures" / "epoch_3" / "<script>&.png")
    outline = read(run)
    assert "script" not in outline.names()
    images = [attributes for tag, attributes in outline.tags if tag == "img"]
    assert len(images) == 1
    assert images[0]["alt"] == "<script>&, epoch 3"
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    assert outline.text.count(HOSTILE) > 8
    assert "<b>run & {{ 1 }}" in outline.text


def test_last_epoch_open_earlier_ones_behind_details(run_dir: Path) -> None:
    page = write_report(run_dir).read_text(encoding="utf-8")
    assert page.index("<h3>Epoch 10</h3>") < page.index("<summary>Epoch 2</summary>")


def test_a_long_run_stays_a_small_page_and_says_what_is_left_out(run_dir: Path) -> None:
    for epoch in (20, 30, 40):
        for subject in range(8):
            write_picture(run_dir / "pictures" / f"epoch_{epoch}" / f"{subject}.png", (300, 220), noise=True)
    text = read(run_dir).text
    assert (run_dir / "report.html").stat().st_size < 5_000_000
    assert "Epoch 40" in text
    assert re.search(r"omitted to keep this page small|to keep this page small: epoch", text)


def test_a_large_picture_is_scaled_down_but_shown_at_its_size(run_dir: Path) -> None:
    write_picture(run_dir / "pictures" / "epoch_10" / "subject_a.png", (2000, 300), noise=True)
    images = [attributes for tag, attributes in read(run_dir).tags if tag == "img"]
    large = next(image for image in images if (image["src"] or "").startswith("data:image/webp"))
    assert large["width"] == str(2000 * 96 // 150)


def test_run_dir_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.*not a directory"):
        write_report(tmp_path / "nowhere")


def render(terminal: bool, judged: dict[str, list[dict[str, Any]]], note: str = "", width: int = 80) -> str:
    output = io.StringIO()
    Console(file=output, force_terminal=terminal, color_system="standard" if terminal else None, width=width).print(
        gates_table(judged, note)
    )
    return output.getvalue()


def test_gates_table_is_coloured_on_a_terminal_and_plain_in_a_log() -> None:
    rows = [
        gate("vol_r2", 0.9123, 0.85),
        gate("max_dcor", 0.5, 0.35, "<"),
        gate("loc_r2", None, 0.91, reason="[red]no"),
    ]
    plain = render(False, {"val": rows}, "48 subjects: [bold]chance")
    assert "\x1b" not in plain
    assert re.search(r"vol_r2 +0\.912 +> 0\.85 +pass", plain)
    assert re.search(r"max_dcor +0\.500 +< 0\.35 +fail", plain)
    assert re.search(r"loc_r2 +n/a +> 0\.91 +not computed", plain)
    assert "loc_r2: [red]no" in plain
    assert "48 subjects: [bold]chance" in plain
    coloured = render(True, {"val": rows})
    assert "\x1b[32mpass" in coloured
    assert "\x1b[1;31mfail" in coloured


def test_a_gate_has_a_line_per_split_within_80_columns() -> None:
    usual = gate("decoder_reads_residual", 1.42, 1.05, reason="only 12 patients") | {"low": 1.38, "high": 1.45}
    long = gate("class_balanced_accuracy", -0.00123, 0.35) | {"low": -0.00123, "high": 1e-5, "verdict": "not computed"}
    text = render(False, {"val": [usual, long, gate("vol_r2", 0.9, 0.85)], "test": [usual]})
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text, "a name is folded, and a number never cut"
    assert re.match(r"decoder_reads_resi +val +1\.42 +1\.38 to 1\.45 +> 1\.05 +pass", lines[3])
    assert re.match(r" +test +1\.42 +1\.38 to 1\.45 +> 1\.05 +pass", lines[5])
    assert re.search(r" val +-0\.00123 +-0\.00123 to 1\.00e-05 +> 0\.35 +not computed", text)
    assert "decoder_reads_residual (val), decoder_reads_residual (test): only 12 patients" in text.replace("\n", " ")


def test_gates_table_without_gates_says_so() -> None:
    assert "split" not in render(False, {"val": gates()})
    assert "Gates" in render(False, {})
