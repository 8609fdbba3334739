"""Run notebooks as nbdev_test does, each in a process of its own; nothing is written.

    python tools/chapters.py nbs/05_resnet.ipynb ...   # no names: all of them
    python tools/chapters.py --serve                   # what tests/test_chapters.py talks to

On Linux the process of a notebook is forked from one that has imported PyTorch and nothing of the
package, which saves its seconds some eighty times; elsewhere it is a new Python. Cells are left out
that nbdev_test leaves out. Exit status 1 if a cell fails, draws curves that only their color tells
apart, or tells of the records in results/ what its stored output does not.
"""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cells import skipped
from curves import watched

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
DONE = 77  # the status of a process whose notebook has come to its end
FORKS = sys.platform.startswith("linux")
# calls whose outcome follows from the records and the package alone
OF_RECORDS = re.compile(r"\b(claims_table|tally|repeats|standings|short_form|everything|"
                        r"plans_table|budgets_table|runs_of)\(")


def told(outputs) -> str:
    "What `outputs` of a cell say, figures left out."
    def text(o):
        data = o.get("data", {})
        return "".join(o.get("text") or data.get("text/markdown") or data.get("text/plain", ""))
    return "".join(text(o) for o in outputs if "image/png" not in o.get("data", {})).strip()


def run(path) -> str:
    "Run the notebook `path` here; its first error as text, '' if there is none."
    import nbformat
    from execnb.shell import CaptureShell
    path = Path(path).resolve()
    os.chdir(path.parent)
    shell = CaptureShell(path, mpl_format="png")
    with watched() as same:
        for i, cell in enumerate(nbformat.read(path, 4).cells):
            if cell.cell_type != "code" or skipped(cell.source): continue
            shell._cell_idx = i
            outputs = shell.run(cell.source)
            where = f"cell {i} ({cell.id}):\n{cell.source}\n\n"
            if shell.exc: return where + shell.prettytb(path)
            for a, b in same: return f"{where}only their color tells {a} and {b} apart"
            stored = told(cell.outputs)
            if OF_RECORDS.search(cell.source) and stored and stored != told(outputs):
                return f"{where}its stored output is out of date: run tools/execute.py {path.name}"
    return ""


def alone(path):
    "Run the notebook `path` and end this process."
    error = run(path)
    if error: print(error, flush=True)
    # not sys.exit: what a fork has inherited from its parent is not the child's to close
    sys.stdout.flush()
    os._exit(1 if error else DONE)


def judged(status, text):
    "DONE is what only the end of a notebook gives: a cell that leaves with 0 has not run the rest."
    if status == DONE: return 0, text
    return status or 2, text + ("" if status else "\nThe process ended before the last cell.")


def forked(path) -> tuple:
    "(exit status, what was printed) of the notebook `path` in a process that is forked from this."
    with (tempfile.TemporaryFile() as out,
          tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own):
        if not (pid := os.fork()):
            os.setsid()
            os.environ["TMPDIR"], tempfile.tempdir = own, None  # gone with the chapter
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
            sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)
            try: alone(path)
            except BaseException:
                import traceback
                os.write(out.fileno(), traceback.format_exc().encode("utf-8", "replace"))
            finally: os._exit(2)
        try: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # ended, its number not yet free
        finally:
            try: os.killpg(pid, signal.SIGKILL)  # what a chapter has left running
            except ProcessLookupError: pass
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        return judged(status, out.read().decode("utf-8", "replace"))


def spawned(path) -> tuple:
    "The same in a new Python."
    p = subprocess.run([sys.executable, __file__, "--one", str(path)], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    return judged(p.returncode, p.stdout.decode("utf-8", "replace"))


def warm():
    "Import what nearly every chapter needs, of other people's."
    import execnb.shell, matplotlib.pyplot, nbformat  # noqa: E401, F401
    import scipy.stats, torch._dynamo, torchvision  # noqa: E401, F401


def timed(path) -> tuple:
    "(exit status, what was printed, seconds) of the notebook `path` in a process of its own."
    start = time.time()
    return *(forked if FORKS else spawned)(path), time.time() - start


def serve():
    "For each line of stdin, the path of a notebook: a line of JSON [status, text, seconds]."
    if FORKS: warm()
    for line in sys.stdin: print(json.dumps(timed(line.strip())), flush=True)


def main(argv):
    if argv[:1] == ["--serve"]: return serve()
    if argv[:1] == ["--one"]: alone(argv[1])
    if lost := [p for p in argv if not Path(p).is_file()]:
        sys.exit(f"chapters: there is no notebook {lost[0]}; they lie in nbs/.")
    if FORKS: warm()
    bad = False
    for path in argv or notebooks():
        status, text, seconds = timed(path)
        print(f"{path} {seconds:.1f} s" + (f"\n{text}" if status else ""), flush=True)
        bad |= bool(status)
    return bad


def notebooks() -> list:
    "Every notebook of the book, its solutions last."
    folders = ROOT / "nbs", ROOT / "nbs/solutions"
    return [p for folder in folders for p in sorted(folder.glob("*.ipynb"))]


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
