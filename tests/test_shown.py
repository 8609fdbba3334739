"""What the chapters show can be read: rounded figures, lines that fit, and a figure early on."""
import json
import re
from pathlib import Path

import pytest

NBS = sorted((Path(__file__).parent.parent / "nbs").glob("*.ipynb"))
LONG, DIGITS, WIDEST, EARLY = re.compile(r"\d+\.\d{7,}"), 6, 120, 60

LEFT = {("00_start", "a349dbec"),       # a training prints its own lines
        ("44_fused_norm", "41d02530")}  # the constants of the kernel, as its code has them
NO_FIGURE = {"67_cli", "91_glossary", "92_contents"}  # pages of commands, words and links


def cells(path):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [c for c in found if c["cell_type"] == "code"]


def shown(cell):
    "(text, whether a page shows it as it is) of each output: a table or a figure is laid out."
    for out in cell["outputs"]:
        data = {"text/plain": out["text"]} if "text" in out else out.get("data", {})
        for kind in {"text/plain", "text/markdown"} & {*data}:
            yield "".join(data[kind]), data.keys() == {"text/plain"}


def problems(cell):
    "What is wrong with the outputs of a cell."
    for text, plain in shown(cell):
        yield from (f for f in LONG.findall(text) if len(f.replace(".", "").lstrip("0")) > DIGITS)
        widest = max(map(len, text.splitlines()), default=0)
        if plain and widest > WIDEST: yield f"{widest} columns"


def lines_before_a_figure(cells):
    "Lines of code before the first figure, None without one."
    lines = 0
    for c in cells:
        if any("image/png" in out.get("data", ()) for out in c["outputs"]): return lines
        lines += sum(bool(line.strip()) for line in "".join(c["source"]).splitlines())
    return None


def test_figures_are_rounded_and_lines_fit():
    bad = [(path.stem, c["id"], p) for path in NBS for c in cells(path) for p in problems(c)
           if (path.stem, c["id"]) not in LEFT]
    assert not bad


def test_a_chapter_has_a_figure_early_on():
    found = {path.stem: lines_before_a_figure(cells(path)) for path in NBS}
    assert {name for name, n in found.items() if n is None} == NO_FIGURE
    assert not {name: n for name, n in found.items() if n is not None and n > EARLY}


@pytest.mark.parametrize("output, found", [
    (dict(text=["0.1821025\n"]), ["0.1821025"]), (dict(text=["4.5e-08, 0.182103\n"]), []),
    (dict(text=["0.0117188"]), []),
    (dict(text=["short\n", "x" * 121]), ["121 columns"]), (dict(text=["x" * 120]), []),
    (dict(data={"text/plain": ["x" * 121], "text/markdown": ["| x |"]}), []),
    (dict(data={"text/plain": ["1"], "text/markdown": ["| 13.600000000000001 |"]}),
     ["13.600000000000001"])])
def test_what_cannot_be_read_is_found(output, found):
    assert [*problems(dict(outputs=[output]))] == found


def test_lines_before_a_figure_are_counted():
    code = dict(source=["a = 1\n", "\n", "a"], outputs=[])
    drawn = dict(source=["draw()"], outputs=[dict(data={"image/png": ""})])
    assert lines_before_a_figure([code, code, drawn, code]) == 4
    assert lines_before_a_figure([code]) is None
