"""Every figure that is stored in a chapter says what it shows: the text stands in the cell, as
`#| fig-alt: ...`, and goes into the metadata of the output, where JupyterLab and the site read it.

    python tools/alts.py            # copy the texts
    python tools/alts.py --check    # change nothing; exit status 1 where one is missing or old
"""
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALT = re.compile(r"^#\| *fig-alt: *(\S.*)$", re.M)


def figures(cell) -> list:
    return [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]


def described(nb: dict) -> list:
    "Put the texts of the notebook `nb` where they belong; the ids of cells whose figure has none."
    lacking = []
    for c in nb["cells"]:
        text = ALT.search("".join(c["source"]))
        for o in figures(c):
            about = o.setdefault("metadata", {}).setdefault("image/png", {})
            if text: about["alt"] = text[1].strip()
            if len(about.get("alt", "").split()) < 5: lacking.append(c["id"])
    return lacking


def main(argv, root=ROOT) -> int:
    wrong = []
    for path in sorted(Path(root).glob("nbs/**/*.ipynb")):
        if ".ipynb_checkpoints" in path.parts: continue
        before = path.read_text(encoding="utf-8")
        nb = json.loads(before)
        wrong += [f"{path.name}: the figure of the cell {i} says nothing; write "
                  "`#| fig-alt: ...`, five words or more, above its code" for i in described(nb)]
        after = json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        if after == before: continue
        if "--check" in argv: wrong.append(f"{path.name}: run `python tools/alts.py`")
        else: path.write_text(after, encoding="utf-8")
    for sentence in wrong: print(f"alts: {sentence}.", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
