"""Link the first use of each term of the glossary, in every chapter, to its sentence.

    python tools/glossary.py            # all chapters
    python tools/glossary.py --check    # change nothing; status 1 if a link is missing or stale

The terms are those of the table in nbs/91_glossary.ipynb. A term is linked where a chapter first
uses it in running text: not in headings, tables, code, formulas, other links or the bold titles of
exercises, and not in the chapter that the glossary names for it, which explains it. Running it
again changes nothing. Standard library only.
"""
import json
import re
import sys
from pathlib import Path

NBS = Path(__file__).resolve().parent.parent / "nbs"
GLOSSARY = "91_glossary.ipynb"
LINK = re.compile(r"\[([^\]]+)\]\(" + re.escape(GLOSSARY) + r"#[\w-]+\)")
# what is not running text: fences, formulas, code, links, pictures, bold text, addresses, tags
APART = re.compile(r"```.*?```|\$\$.*?\$\$|\$[^$\n]+\$|`[^`\n]*`|!?\[[^\]]*\]\([^)]*\)"
                   r"|\*\*[^*]+\*\*|https?://\S+|<[^>]+>", re.DOTALL)


def terms(path=NBS / GLOSSARY):
    "(anchor, names, chapter) of each row of the glossary's table."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = next(t for t in map("".join, (c["source"] for c in cells)) if t.startswith("## Words"))
    rows = re.findall(r"^\| (?:<a [^>]*></a>)?\[(.+?)\]\((\w+)\.ipynb\) \|", text, re.MULTILINE)
    for term, chapter in rows: yield anchor(term), names_of(term), chapter


def anchor(term):
    "The place of a term on the page: 'adam-adamw'."
    return re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")


def names_of(term):
    """The names under which a text has the term: what stands in parentheses is another name if it
    is an abbreviation or more than one word, and else the rest of a longer one."""
    first, _, more = term.partition(" (")
    names = first.split(", ")
    for n in filter(None, more.rstrip(")").split(", ")):
        names.append(n if n.isupper() or len(n.split()) > 1 else f"{names[0]} {n}")
    return names


def anywhere(table):
    "(pattern of all names, longest first; anchor and chapter by name)."
    homes = {n if n.isupper() else n.lower(): (place, home)
             for place, names, home in table for n in names}
    parts = [re.escape(n) if n.isupper() else f"(?i:{re.escape(n)})"
             for n in sorted(homes, key=len, reverse=True)]
    return re.compile(r"(?<![\w-])(" + "|".join(parts) + r")(?:e?s)?(?![\w-])"), homes


def linked(cells, chapter, table):
    "The sources of the Markdown cells of a chapter, with the links."
    wanted, homes = anywhere(table)
    done, out = set(), []
    for text in (LINK.sub(r"\1", t) for t in cells):
        closed, at, pieces = apart(text), 0, []
        for m in wanted.finditer(text):
            place, home = homes[m[1] if m[1] in homes else m[1].lower()]
            if place in done or home == chapter: continue
            if any(a < m.end() and m.start() < b for a, b in closed): continue
            done.add(place)
            pieces += [text[at:m.start()], f"[{m[0]}]({GLOSSARY}#{place})"]
            at = m.end()
        out.append("".join([*pieces, text[at:]]))
    return out


def apart(text):
    "(begin, end) of what is not running text in a Markdown cell."
    closed, at = [(m.start(), m.end()) for m in APART.finditer(text)], 0
    for line in text.splitlines(keepends=True):
        if line.startswith(("#", "|", ">", "[![")): closed.append((at, at + len(line)))
        at += len(line)
    return closed


def main(argv):
    table, stale = list(terms()), []
    for path in sorted(NBS.glob("[0-8]*_*.ipynb")):
        nb = json.loads(path.read_text(encoding="utf-8"))
        cells = [c for c in nb["cells"] if c["cell_type"] == "markdown"]
        old = ["".join(c["source"]) for c in cells]
        new = linked(old, path.stem, table)
        if new == old: continue
        stale.append(path.name)
        if "--check" in argv: continue
        for c, text in zip(cells, new): c["source"] = text.splitlines(keepends=True)
        path.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n",
                        encoding="utf-8")
        print(path.name)
    if "--check" in argv and stale:
        print(f"glossary: run `python tools/glossary.py`; links are missing or stale in "
              f"{', '.join(stale)}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
