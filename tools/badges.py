"""Badges under the title of each chapter: "Open in Colab", and "Open in Kaggle" where the Kaggle
notebook has the chapter's code. Below it the cell that makes the chapter run on Colab.

    python tools/badges.py                        # every chapter of nbs/
    python tools/badges.py nbs/61_training.ipynb  # this one
    python tools/badges.py --check                # change nothing; exit status 1 if a badge is
    missing or leads nowhere

Only the title cell and the cell for Colab are edited; running it again changes nothing. Standard
library only. On Colab the cell takes a clone and not only an installation, since many chapters read
the repository's `results/` and `cifar_nb/`. Elsewhere it does nothing: it is folded, and the site
leaves it out.
"""
import json
import re
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLAB = "https://colab.research.google.com"
KAGGLE = "https://kaggle.com/kernels/welcome?src="
MARK = "[![Open in Colab]"  # begins the line that this tool writes
SET_UP = "colab"  # the id of the cell for Colab
TARGET = re.compile(
    r"\((?:https://colab\.research\.google\.com/github/[^/)]+/[^/)]+|https://kaggle\.com/kernels/welcome\?src=https://github\.com/[^/)]+/[^/)]+)/blob/[^/)]+/([^)\s]+)\)")


def repository(root=ROOT):
    "(owner/name, branch) from settings.ini."
    cfg = ConfigParser(delimiters=["="])
    cfg.read(Path(root) / "settings.ini", encoding="utf-8")
    d = cfg["DEFAULT"]
    return f"{d['user']}/{d['repo']}", d["branch"]


def on_kaggle(root=ROOT):
    """The names of the chapters whose code is in the Kaggle notebook, and of the chapter that
    builds it."""
    text = (Path(root) / "kaggle/cifar-nb.ipynb").read_text(encoding="utf-8")
    return {"66_kaggle", *re.findall(r"/nbs/([\w.-]+)\.ipynb\)", text)}


def line(name, root=ROOT):
    "The line for the chapter `name`."
    repo, branch = repository(root)
    parts = [
        f"{MARK}({COLAB}/assets/colab-badge.svg)]({COLAB}/github/{repo}/blob/{branch}/nbs/{name}.ipynb)"]
    if name in on_kaggle(root):
        parts.append("[![Open in "
                     f"Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]({KAGGLE}https://github.com/{repo}/blob/{branch}/kaggle/cifar-nb.ipynb)")
    return " ".join(parts)


def set_up(root=ROOT):
    "The cell that fetches the book on Colab, as often as it is run, and does nothing elsewhere."
    repo, _ = repository(root)
    folder = repo.split("/")[1]
    source = f"""#| hide
#@title Colab: run this cell first (elsewhere it does nothing)
if 'google.colab' in str(get_ipython()):
    import os
    os.chdir('/content')
    get_ipython().system('test -d {folder} || git clone -q https://github.com/{repo}; '
                         "pip install -q './{folder}[notebook]' fastcore")
    os.chdir('{folder}/nbs')"""
    return dict(cell_type="code", execution_count=None, id=SET_UP, outputs=[],
                metadata={"cellView": "form", "jupyter": {"source_hidden": True}},  # folded
                source=source.splitlines(keepends=True))


def title_cell(nb):
    "The first Markdown cell that begins with a `# Title`."
    return next(
        (c for c in nb["cells"] if c["cell_type"] == "markdown"
         and "".join(c["source"]).startswith("# ")), None)


def with_badges(source, badges):
    """The title cell's text `source` with the line `badges` after title and subtitle, in place of
    the one that is there."""
    blocks = [b for b in re.split(r"\n{2,}", source) if not b.startswith(MARK)]
    at = 2 if len(blocks) > 1 and blocks[1].startswith(">") else 1
    return "\n\n".join([*blocks[:at], badges, *blocks[at:]])


def fitted(nb, name, root=ROOT):
    "The chapter `nb` with its badges and, below them where there is code, the cell for Colab."
    title, cells = title_cell(nb), [c for c in nb["cells"] if c.get("id") != SET_UP]
    text = with_badges("".join(title["source"]), line(name, root))
    at = cells.index(title)
    runs = any(c["cell_type"] == "code" for c in cells[at:])
    return nb | {"cells": [*cells[:at], title | {"source": text.splitlines(keepends=True)},
                           *[set_up(root)] * runs, *cells[at + 1:]]}


def chapters(names=(), root=ROOT):
    "The notebooks to edit: `names`, or every chapter in nbs/ (the index has its own badges)."
    return ([Path(n) for n in names]
            or [p for p in sorted((Path(root) / "nbs").glob("*.ipynb")) if p.name != "index.ipynb"])


def main(argv, root=ROOT):
    check, wrong = "--check" in argv, []
    for path in chapters([a for a in argv if not a.startswith("--")], root):
        nb = json.loads(path.read_text(encoding="utf-8"))
        if title_cell(nb) is None: wrong.append(f"{path.name} has no title"); continue
        new = fitted(nb, path.stem, root)
        badges = "".join(title_cell(new)["source"])
        lost = [t for t in TARGET.findall(badges) if not (Path(root) / t).is_file()]
        if lost: wrong.append(f"{path.name} has a badge for {', '.join(lost)}, which is not there")
        elif new != nb and check:
            wrong.append(f"{path.name} has no badges, or old ones: run `python tools/badges.py`")
        elif new != nb:
            path.write_text(json.dumps(new, indent=1, ensure_ascii=False, sort_keys=True) + "\n",
                            encoding="utf-8")
            print(path.name)
    for sentence in wrong: print(f"badges: {sentence}.", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
