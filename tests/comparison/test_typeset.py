"""Tables for documents, read back by other parsers."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

from markdown_it import MarkdownIt
from stores import tracked

from menvae.comparison.compare import ComparisonSettings, compare
from menvae.comparison.results import Comparison
from menvae.comparison.typeset import write_latex, write_markdown

FEW = {"r2_a&b": (">", 0.5), "dcor": ("<", 0.4)}
MEASURED = {"sbd": [(0.70, 0.6), (0.80, 0.7)], "50%_$x$|\\y": [(-0.62, 0.3), (-0.6, 0.34)], "~^{#}<i>": [(0.4, None)]}


def comparison(**attributes: str) -> Comparison:
    runs = [
        tracked({"decoder.name": name, "seed": seed}, dict(zip(FEW, pair, strict=True)), FEW, **attributes)
        for name, seeds in MEASURED.items()
        for seed, pair in enumerate(seeds)
    ]
    return compare(runs, ComparisonSettings())


def cells_of(markdown: str) -> list[list[str]]:
    """Rows of a Markdown table, as markdown-it renders them; bold text has stars."""
    html = MarkdownIt("commonmark").enable("table").render(markdown)
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    plain = {"<strong>": "*", "</strong>": "*", "&lt;": "<", "&gt;": ">", "&amp;": "&"}
    return [[re.sub("|".join(plain), lambda found: plain[found[0]], cell) for cell in row] for row in cells]


def test_markdown_is_what_a_renderer_shows(tmp_path: Path) -> None:
    found = comparison()
    head, *rows = cells_of(write_markdown(found, tmp_path / "table.md").read_text())
    assert head == ["#", "decoder", "seeds", "passed", "r2_a&b > 0.5", "dcor < 0.4"]
    by_name = {row[1]: row for row in rows}
    assert set(by_name) == set(MEASURED)
    deviation = statistics.stdev([0.7, 0.8])
    assert by_name["sbd"][4:] == [f"*0.750 ± {deviation:.3f}*", f"0.650 ± {statistics.stdev([0.6, 0.7]):.3f}"]
    assert by_name["50%_$x$|\\y"][5] == f"*0.320 ± {statistics.stdev([0.3, 0.34]):.3f}*"
    assert by_name["~^{#}<i>"][5] == "n/a"


def test_latex_has_every_row_and_nothing_that_is_a_command_by_chance(tmp_path: Path) -> None:
    found = comparison()
    lines = write_latex(found, tmp_path / "table.tex").read_text().splitlines()
    text = [line for line in lines if not line.startswith("%")]
    assert text[0] == r"\begin{tabular}{rlrrrr}"
    assert text[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert text[2] == r"\# & decoder & seeds & passed & r2\_a\&b \textgreater{} 0.5 & dcor \textless{} 0.4 \\"
    rows = {line.split(" & ")[1]: line.removesuffix(r" \\").split(" & ") for line in text[4:-2]}
    assert rows["sbd"][4:] == [r"$\mathbf{0.750 \pm 0.071}$", r"$0.650 \pm 0.071$"]
    assert rows[r"50\%\_\$x\$\textbar{}\textbackslash{}y"][4:] == [r"$-0.610 \pm 0.014$", r"$\mathbf{0.320 \pm 0.028}$"]
    assert rows[r"\textasciitilde{}\textasciicircum{}\{\#\}\textless{}i\textgreater{}"][5] == "n/a"
    for line in text[1:]:  # braces close, and each row has as many columns as the head
        assert line.replace(r"\{", "").count("{") == line.replace(r"\}", "").count("}")
        assert len(re.findall(r"(?<!\\)&", line)) in (0, 5)


def test_other_data_begin_after_a_rule(tmp_path: Path) -> None:
    runs = [
        tracked({"loss.lambda_dcor": weight, "seed": 0}, {"dcor": 0.1 * weight}, {"dcor": ("<", 0.4)}, data_hash=data)
        for data in "ab"
        for weight in (1, 2)
    ]
    lines = write_latex(compare(runs, ComparisonSettings()), tmp_path / "table.tex").read_text().splitlines()
    rules = [place for place, line in enumerate(lines) if line == r"\midrule"]
    assert rules[1] - rules[0] == 3
    assert sum(r"\mathbf" in line for line in lines) == 2, "the best of each data"


def test_a_long_table_is_cut_and_says_so(tmp_path: Path) -> None:
    runs = [tracked({"loss.lambda_dcor": number, "seed": 0}, {"dcor": 0.1}, FEW) for number in range(201)]
    text = write_markdown(compare(runs, ComparisonSettings()), tmp_path / "table.md").read_text()
    assert len(cells_of(text)) == 1 + 200
    assert "Tables show the first 200 of 201 configurations; the CSV files have all." in text
    assert "the first" not in write_markdown(comparison(), tmp_path / "short.md").read_text()
