"""Every check that a change must pass, in the order in which they are cheap. `python3 book.py test` runs this.

    python tools/checks.py            # all of them
    python tools/checks.py --quick    # leave out nbval, which runs the chapters a second time, in Jupyter's own kernel
"""
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def run(*argv, threads=None):
    "Run a program in the project's folder, with `threads` of torch where given, and stop everything where it fails."
    start = time.time()
    print(f"\n=== {' '.join(str(a) for a in argv).replace(str(BIN) + '/', '')}", flush=True)
    env = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    status = subprocess.run([str(a) for a in argv], cwd=ROOT, env=env).returncode
    print(f"    {time.time() - start:.0f} s", flush=True)
    if status: sys.exit(status)


def snapshot():
    "The contents of everything that exporting and cleaning may change."
    files = [*ROOT.glob("nbs/**/*.ipynb"), *ROOT.glob("cifar_nb/**/*.py")]
    return {f: f.read_bytes() for f in files if ".ipynb_checkpoints" not in f.parts}


def unchanged():
    "nbdev_export and nbdev_clean must have nothing to do."
    before = snapshot()
    for command in ("nbdev_export", "nbdev_clean"): run(BIN / command)
    after = snapshot()
    moved = sorted(str(f.relative_to(ROOT)) for f in before.keys() | after.keys() if before.get(f) != after.get(f))
    if moved: sys.exit(f"Not in step: {', '.join(moved)} changed by nbdev_export or nbdev_clean. Commit what they made.")


def main():
    unchanged()
    run(sys.executable, "tools/readme.py", "--check")
    run(sys.executable, "tools/bare_comparisons.py")
    run(BIN / "nbdev_test", "--n_workers", "2", "--timing", threads=1)  # two processes of one thread: more would wait for each other
    notebooks = [] if "--quick" in sys.argv else ["nbs", "--ignore", "nbs/solutions", "--nbval-lax", "--nbval-sanitize-with", "tools/nbval_sanitize.cfg"]  # the solutions have run above
    run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", "tests", *notebooks, threads=1)


if __name__ == "__main__": main()
