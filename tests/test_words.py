"""The field's words, in everything that a reader reads: `words.txt` has what is replaced by what.

    python tests/test_words.py [nbs/05_resnet.ipynb ...]     # the hits, with file and cell
"""
import ast
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = [line for line in (ROOT / "tests/words.txt").read_text(encoding="utf-8").splitlines()
         if line and not line.startswith("#")]
HONEST = [line[len("except "):].lower() for line in LINES if line.startswith("except ")]
WORDS = [(re.compile(old, re.IGNORECASE), new) for old, new in (
    line.rsplit(" -> ", 1) for line in LINES if not line.startswith("except "))]
NOTEBOOKS = [p for folder in ("nbs", "nbs/solutions")
             for p in sorted((ROOT / folder).glob("*.ipynb"))]
FIGURE = ("title", "suptitle", "xlabel", "ylabel", "set_title", "set_xlabel", "set_ylabel", "label",
          "annotate", "text")


def prose(text):
    "A Markdown text without code, formulas, addresses and the quotations of reports."
    text = re.sub(r"```.*?```", " ", text, flags=re.DOTALL)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$|`[^`]*`|<[^>]+>", " ", text, flags=re.DOTALL)
    return re.sub(r"\]\([^)]*\)|https?://\S+", "] ", text)


def figure_texts(source):
    "The string constants that a cell hands to the texts of a figure."
    try: tree = ast.parse(re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE))
    except SyntaxError: return
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        asked = [k.value for k in call.keywords if k.arg in FIGURE]
        if name in FIGURE: asked += call.args
        for a in asked:
            for c in ast.walk(a):
                if isinstance(c, ast.Constant) and isinstance(c.value, str): yield c.value


def hits(text):
    "(word, what to write, surroundings) of each replaced word in `text`."
    for old, new in WORDS:
        for m in old.finditer(text):
            near = text[max(0, m.start() - 40):m.end() + 40].replace("\n", " ")
            if not any(h in near.lower() for h in HONEST): yield m[0], new, near


def found(path):
    "The hits of a notebook, as sentences."
    for i, c in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(c["source"])
        alt = re.findall(r"^#\| fig-alt: (.*)$", source, re.MULTILINE)
        texts = [prose(source)] if c["cell_type"] == "markdown" else [*figure_texts(source), *alt]
        for text in texts:
            for word, new, near in hits(text):
                yield f"{path.name} [{i}]: {word!r} (write: {new}) in '{near}'"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_chapters_use_the_fields_words(path):
    assert not (said := [*found(path)]), "\n".join(said)


def test_the_command_uses_the_fields_words():
    import argparse

    from cifar_nb.cli.arguments import parser
    def texts(command):
        yield command.description or ""
        for a in command._actions:
            if isinstance(a, argparse._SubParsersAction):
                yield from (c.help or "" for c in a._choices_actions)
                for p in a.choices.values(): yield from texts(p)
            elif a.help and a.help != argparse.SUPPRESS: yield a.help
    assert not [h for t in texts(parser()) for h in hits(t)]


def test_the_patterns_find_what_they_are_for():
    assert [w for w, _, _ in hits("a knob, the surest mistakes and three views")] == [
        "three views", "views", "surest", "knob"]
    assert not [*hits(prose("`views` of ![a](views.png), $views$ and a viewpoint"))]


if __name__ == "__main__":
    for p in map(Path, sys.argv[1:] or NOTEBOOKS): print(*found(p), sep="\n")
