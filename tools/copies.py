"""The chapters as copies in work/, to read, run and change: what is in nbs/ stays as it came.

    python tools/copies.py    # `python3 book.py lab` runs this

A copy whose cells are still those of the book is renewed when the book changes, whatever was run in
it, and removed when the book drops or renames its chapter. One that was edited is never touched;
what has changed in the book since is named, and so are chapters that are gone.
"""
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATE = ".copies.json"


def mark(raw: bytes, name: str) -> str:
    """What two versions of a file have in common if nobody edited one: of a chapter its cells,
    without outputs; of another file its bytes. Of a damaged chapter, too."""
    try:
        if not name.endswith(".ipynb"): raise ValueError
        cells = json.loads(raw)["cells"]
        raw = json.dumps([(c["cell_type"], "".join(c["source"])) for c in cells]).encode()
    except (ValueError, TypeError, KeyError, RecursionError): pass
    return hashlib.sha256(raw).hexdigest()[:32]


def write(path: Path, raw: bytes):
    "Write the file `path`, whole or not at all."
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new")
    try:
        with os.fdopen(handle, "wb") as f: f.write(raw)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException: os.unlink(name); raise


def recall(work: Path) -> dict:
    "Name to the mark of what it was copied from."
    try: state = json.loads((work / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError): return {}
    return state if isinstance(state, dict) else {}


def chapters(nbs: Path) -> list:
    "The chapters, and the files that they read, by their paths below nbs/."
    read = "*.csv", "logs/*.csv", "matplotlibrc"
    found = [p for pattern in ("**/*.ipynb", *read) for p in nbs.glob(pattern)]
    inside = [p.relative_to(nbs) for p in found]
    return sorted(p.as_posix() for p in inside if not any(q[0] in "._" for q in p.parts))


def unedited(copy: Path, name: str, known: str) -> bool:
    "Whether `copy` is a file with the mark `known`: all that is in it came from the book."
    return copy.is_file() and mark(copy.read_bytes(), name) == known


def drop(work: Path, gone: list, state: dict) -> tuple:
    "Remove the copies of what is `gone` from the book; those removed, and those that were edited."
    removed, kept = [], []
    for name in gone:
        copy = work / name
        if unedited(copy, name, state[name]): copy.unlink(); removed.append(name)
        elif os.path.lexists(copy): kept.append(name); continue
        del state[name]
    return removed, kept


def moved(name: str, there: list) -> str:
    "`name`, and what is called so under another number in the book, if anything is."
    def word(path): return path.rpartition("/")[0], path.rpartition("/")[2].partition("_")[2]
    now = [n for n in there if word(n) == word(name)] if word(name)[1] else []
    return f"{name} (now {', '.join(now)})" if now else name


def bring(root: Path = ROOT, say=print) -> list:
    """Make the copies that are missing or behind; the names of those that were edited and whose
    chapter has changed since."""
    nbs, work = root / "nbs", root / "work"
    state, new, renewed, behind = recall(work), [], [], []
    there = chapters(nbs)
    removed, kept = drop(work, sorted(state.keys() - {*there}), state)
    for name in there:
        raw = (nbs / name).read_bytes()
        book, copy = mark(raw, name), work / name
        if not os.path.lexists(copy): new.append(name)
        else:
            mine = mark(copy.read_bytes(), name)
            if mine == book or state.get(name) == book:  # the same, or edited and not behind
                if mine == book: state[name] = book
                continue
            if mine != state.get(name): behind.append(name); continue
            renewed.append(name)
        write(copy, raw)
        state[name] = book
    write(work / STATE, (json.dumps(state, indent=1) + "\n").encode())
    if new: say(f"work/: {len(new)} files copied from nbs/")
    if renewed: say(f"work/: renewed, since the book has changed: {', '.join(renewed)}")
    if removed: say("work/: removed, since the book has dropped or renamed them and you had not "
                    f"edited them: {', '.join(removed)}")
    if kept:
        say("work/: the book has dropped or renamed chapters that you have edited: "
            f"{', '.join(moved(name, there) for name in kept)}. Yours stay as they are; delete or "
            "rename them to end this note.")
    if behind:
        say(f"work/: you have edited {', '.join(behind)}, and the book has changed there since. "
            "Yours stay as they are; the new ones are in nbs/. Delete or rename a copy to get the "
            "new one.")
    return behind


if __name__ == "__main__":
    try: bring(say=lambda text: print(f"book: {text}", flush=True))
    except OSError as e:
        sys.exit(f"book: {e.filename or 'work'} cannot be written ({e.strerror}): free some space, "
                 "look at its permissions, or use `python3 book.py lab --edit`.")
