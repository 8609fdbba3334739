"""README.md from nbs/index.ipynb, without Quarto: nbdev's own processors, then nbconvert's Markdown.

    python tools/readme.py           # write README.md and the figures it shows
    python tools/readme.py --check   # write nothing; exit status 1 if README.md is out of step
"""
import os
import re
import sys

os.environ["IN_TEST"] = "1"  # nbdev_export() cells become no-ops

import nbformat
from execnb.nbio import nb2str, read_nb
from nbconvert import MarkdownExporter
from nbdev.config import get_config
from nbdev.processors import FilterDefaults


def render(cfg):
    "The text of README.md, and its figures as {path: bytes}."
    nb = read_nb(cfg.nbs_path / cfg.readme_nb)
    FilterDefaults()(nb)  # drops hidden and exported cells, turns the title cell into front matter
    nb = nbformat.reads(nb2str(nb), 4)
    nb.metadata.setdefault("language_info", {"name": "python"})  # nbdev_clean drops it; code fences need it
    if nb.cells[0].cell_type == "raw":
        title, text = (re.search(rf"^{k}:\s*(.*)$", nb.cells[0].source, re.M) for k in ("title", "description"))
        nb.cells[0] = nbformat.v4.new_markdown_cell(f"# {title[1]}" + (f"\n\n> {text[1]}" if text else ""))
    body, resources = MarkdownExporter().from_notebook_node(nb, {"output_files_dir": "index_files", "unique_key": "index"})
    body = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+$", "", body, flags=re.M))
    return f"<!-- made from nbs/index.ipynb by tools/readme.py: edit there -->\n\n{body.strip()}\n", resources["outputs"]


def main():
    cfg = get_config()
    readme = cfg.config_path / "README.md"
    body, figures = render(cfg)
    if "--check" in sys.argv:
        if readme.exists() and readme.read_text(encoding="utf-8") == body: return 0
        print("README.md is out of step with nbs/index.ipynb: run `python3 book.py prepare`.", file=sys.stderr)
        return 1
    for name, data in figures.items():
        path = cfg.config_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    readme.write_text(body, encoding="utf-8")
    return 0


if __name__ == "__main__": sys.exit(main())
