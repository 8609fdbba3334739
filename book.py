#!/usr/bin/env python3
"""The book's own commands. Each one sets up what it needs in .venv; Python 3.10 or newer is all that must be there.

    python3 book.py train [ARGS]     train and evaluate a network: cifar_nb train (default: the recipe `quick`)
    python3 book.py test             every check that a change must pass
    python3 book.py lab              open the book in JupyterLab
    python3 book.py run COMMAND ...  anything else inside the environment, e.g. `run cifar_nb recipes`
    python3 book.py prepare          export, clean, and rebuild README and Kaggle notebook after an edit
"""
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
SHEETS = ROOT.parent / "shared" / "cifar10" / "restore.py"  # a lossless copy of CIFAR-10 beside the clone, where there is one


def say(text): print(f"book: {text}", flush=True)


def call(*argv, check=True, **kwargs):
    "Run a program in the project's folder; stop with its status where it fails."
    status = subprocess.run([str(a) for a in argv], cwd=ROOT, **kwargs).returncode
    if status and check: sys.exit(status)
    return status


def tool(name): return BIN / (f"{name}.exe" if os.name == "nt" else name)


def set_up(dev):
    "Make .venv and install the package, and with `dev` the tools; nothing happens if that has been done."
    wanted = "".join((ROOT / f).read_text(encoding="utf-8") for f in ("settings.ini", "setup.py", "constraints.txt"))
    stamp, mark = VENV / ("set-up-dev" if dev else "set-up"), hashlib.sha256(wanted.encode()).hexdigest()
    done = [f for f in (VENV / "set-up-dev", stamp) if f.exists() and f.read_text() == mark]
    if not done:
        say("installing into .venv (PyTorch is large: the first time takes some minutes)")
        if not PYTHON.exists(): venv.create(VENV, with_pip=True)
        pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt"]
        if call(*pip, "--editable", ".[dev]" if dev else ".", check=False):
            sys.exit("book: the installation failed; the lines above say why. Look at the network, then run the same command again.")
        stamp.write_text(mark)
    if SHEETS.exists() and "CIFAR_NB_DATA" not in os.environ: restore()


def restore():
    "Put the lossless copy of CIFAR-10 into the cache, if it is not there yet."
    cache = Path(os.environ.get("CIFAR_NB_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cifar_nb")
    if (cache / "cifar-10-batches-py" / "test_batch").exists() and (cache / "cifar-10-batches-py" / "batches.meta").exists(): return
    say("restoring CIFAR-10 from the lossless copy beside this folder")
    call(PYTHON, SHEETS, cache, check=False, stdout=subprocess.DEVNULL)


def train(*argv):
    set_up(dev=False)
    call(tool("cifar_nb"), "train", *(argv if argv and not argv[0].startswith("-") else ("quick", *argv)))


def lab(*argv):
    set_up(dev=True)
    call(PYTHON, "-m", "jupyter", "lab", *(argv or ("nbs/index.ipynb",)))


def run(*argv):
    set_up(dev=True)
    if not argv: sys.exit("book: name a command to run, e.g. `python3 book.py run cifar_nb recipes`.")
    program = tool(argv[0]) if tool(argv[0]).exists() else argv[0]
    call(program, *argv[1:])


def test(*argv):
    set_up(dev=True)
    call(PYTHON, "tools/checks.py", *argv)


def prepare():
    set_up(dev=True)
    for command in ("nbdev_export", "nbdev_clean"): call(tool(command))
    call(tool("cifar_nb"), "kaggle", "build")
    for script in ("tools/badges.py", "tools/readme.py"): call(PYTHON, script)


def main():
    commands = dict(train=train, test=test, lab=lab, run=run, prepare=prepare)
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        print(__doc__.strip())
        sys.exit(0 if sys.argv[1:2] in ([], ["-h"], ["--help"]) else 2)
    if sys.version_info < (3, 10): sys.exit(f"book: Python 3.10 or newer is needed, this is {sys.version.split()[0]}.")
    try: commands[sys.argv[1]](*sys.argv[2:])
    except KeyboardInterrupt: sys.exit(130)


if __name__ == "__main__": main()
