"""Every text file is read and written as UTF-8, and every program's words too: no call leaves the
encoding to the system.

On Windows that is often cp1252 or gbk, and a name, a `±` or a chapter's text comes out as something
else."""
import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODE = re.compile(r"[rwxabt+U]+")
# their open() is no text file's
OTHER_OPENERS = {"os", "tarfile", "zipfile", "Image", "webbrowser", "urllib", "wave", "request",
                 "lzma_file", "dbm", "shelve"}
PROGRAMS = {"run", "Popen", "check_output", "check_call", "call", "getoutput"}
TEMPORARY = {"TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile"}
PACKED = {"gzip", "bz2", "lzma"}  # bytes unless 't' is said


def argument(call, name, place):
    "The node of the argument `name`, or of the one in `place`; None where there is none."
    for k in call.keywords:
        if k.arg == name: return k.value
    return call.args[place] if place is not None and len(call.args) > place else None


def constant(node, default=None): return node.value if isinstance(node, ast.Constant) else default


def is_text(call, place, default):
    "Whether the mode in `place` opens a text; a mode that is computed counts as one."
    mode = argument(call, "mode", place)
    return "b" not in (default if mode is None else str(constant(mode, "")))


def leaves_it_to_the_system(call):
    "Whether this call reads or writes text without naming the encoding."
    f = call.func
    name = f.id if isinstance(f, ast.Name) else f.attr if isinstance(f, ast.Attribute) else ""
    owner = f.value if isinstance(f, ast.Attribute) else None
    owner = getattr(owner, "id", getattr(owner, "attr", ""))
    if any(k.arg is None for k in call.keywords): return False  # **kwargs: the caller's
    if name == "read_text": return argument(call, "encoding", 0) is None
    if name == "write_text": return argument(call, "encoding", 1) is None
    if name == "open" and (not isinstance(f, ast.Attribute)
                           or owner in ("io", "codecs", "builtins")):
        return is_text(call, 1, "r") and argument(call, "encoding", 3) is None
    if name == "open" and owner in PACKED:
        return ("t" in str(constant(argument(call, "mode", 1), ""))
                and argument(call, "encoding", 3) is None)
    # a path's: its first argument is the mode, if any
    if name == "open" and owner not in OTHER_OPENERS:
        first = constant(argument(call, "mode", 0), "" if call.args else "r")
        return (bool(MODE.fullmatch(str(first))) and "b" not in first
                and argument(call, "encoding", 2) is None)
    if name == "fdopen": return is_text(call, 1, "r") and argument(call, "encoding", 3) is None
    if name in TEMPORARY: return is_text(call, 0, "w+b") and argument(call, "encoding", 2) is None
    if name == "FileHandler": return argument(call, "encoding", 2) is None
    if name in PROGRAMS:
        asked = [constant(argument(call, word, None)) for word in ("text", "universal_newlines")]
        return any(asked) and argument(call, "encoding", None) is None
    return False


def found(text):
    "The lines of `text` (Python) with such calls, numbered."
    lines = text.splitlines()
    return [f"{n.lineno}: {lines[n.lineno - 1].strip()}" for n in ast.walk(ast.parse(text))
            if isinstance(n, ast.Call) and leaves_it_to_the_system(n)]


def python_of(cell):
    """A code cell without what only IPython knows; of a cell of the Kaggle notebook that holds
    files, those in Python."""
    parts = re.split(r"^#: (.+)\n", "".join(cell["source"]), flags=re.M)[1:]
    if parts: return "\n".join(t for p, t in zip(parts[::2], parts[1::2]) if p.endswith(".py"))
    return "\n".join("pass" if re.match(r"\s*[%!]", line) else line
                     for line in "".join(cell["source"]).splitlines())


MODULES = sorted(
    p for p in [ROOT / "book.py", ROOT / "setup.py",
                *(p for d in ("cifar_nb", "tools", "tests") for p in (ROOT / d).rglob("*.py"))])
NOTEBOOKS = sorted([*(ROOT / "nbs").rglob("*.ipynb"), ROOT / "kaggle/cifar-nb.ipynb"])


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_module_leaves_it_to_the_system(path):
    assert found(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "path", [p for p in NOTEBOOKS if ".ipynb_checkpoints" not in p.parts],
    ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_cell_leaves_it_to_the_system(path):
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
             if c["cell_type"] == "code"]
    # the text of a module, which is asked above
    cells = [c for c in cells if not "".join(c["source"]).startswith("%%chapter ")]
    assert {c["id"]: lines for c in cells if (lines := found(python_of(c)))} == {}


@pytest.mark.parametrize("text", [
    "open(p)", "open(p, 'w')", "open(p, mode='a')", "open(p, mode)", "io.open(p)", "p.open()",
    "p.open('w')", "p.open(mode='r')", "Path(p).open('x')",
    "p.read_text()",
    "p.read_text(errors='replace')", "p.write_text(s)", "p.write_text(s, newline='')",
    "(a / b).read_text()", "gzip.open(p, 'rt')", "os.fdopen(f, 'w')",
    "fdopen(f)",
    "NamedTemporaryFile('w')", "tempfile.TemporaryFile(mode='w+')", "logging.FileHandler(p)",
    "subprocess.run(a, text=True)",
    "subprocess.Popen(a, universal_newlines=True)",
    "check_output(a, text=True, cwd=d)", "with open(p) as f: pass",
    "x = [json.loads(p.read_text()) for p in q]"])
def test_such_calls_are_found(text): assert len(found(text)) == 1


@pytest.mark.parametrize("text", [
    "open(p, 'rb')", "open(p, mode='wb')", "open(p, encoding='utf-8')", "open(p, 'w', 1, 'utf-8')",
    "p.open('rb')", "p.open(encoding='utf-8')",
    "p.read_text('utf-8')",
    "p.read_text(encoding='utf-8')", "p.write_text(s, 'utf-8')", "p.read_bytes()", "Image.open(p)",
    "tarfile.open(p)", "tarfile.open(p, 'w')",
    "os.open(p, os.O_RDONLY)", "gzip.open(p)",
    "z.open('name.csv')", "z.open(name)", "TemporaryFile()", "NamedTemporaryFile(suffix='.x')",
    "subprocess.run(a)",
    "subprocess.run(a, text=True, encoding='utf-8')",
    "subprocess.run(a, capture_output=True)",
    "subprocess.run(a, text=False)", "run(a, **kwargs)", "s.encode()", "b.decode()",
    "urllib.request.open(u)"])
def test_others_are_not(text): assert found(text) == []
