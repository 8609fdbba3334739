"""Do the tests notice a wrong line? Each line of tools/mutations.txt is made wrong, one at a time.

    python tools/mutate.py                 # all of them, in a temporary copy; some minutes
    python tools/mutate.py clip manifest   # those in whose file, lines or tests one of the words is
    python tools/mutate.py --list          # run nothing

A mutation is `killed` when one of its tests fails or takes too long, and has `SURVIVED` otherwise:
then a test is missing. Before that the same tests must pass as things are. Exit status 1 if one
survived or is not found any more. No part of CI.
"""
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 240  # seconds for the tests of one mutation
LEAVE = shutil.ignore_patterns('.git', '.venv', '_docs', '__pycache__', 'runs', '.pytest_cache')


def read(path=Path(__file__).with_name('mutations.txt')):
    "(file, what stands there, what is put there, tests) of each block of the table."
    for block in path.read_text(encoding='utf-8').split('\n\n'):
        lines = [line for line in block.splitlines() if not line.startswith('#')]
        if not lines: continue
        file, tests = lines[0].split(': ', 1)
        old, new = ('\n'.join(line[2:] for line in lines[1:] if line[0] == c) for c in '-+')
        yield file, old, new, tests


def named(tests):
    "The arguments of pytest for `tests`."
    return ['tests/' + a if a.startswith('test_') else a for a in shlex.split(tests)]


def passes(root, tests, limit=LIMIT):
    "Whether the tests pass in the copy `root`, and the seconds; 5 is pytest's status for no tests."
    start = time.time()
    env = os.environ | dict(PYTHONPATH=str(root), PYTHONDONTWRITEBYTECODE='1', OMP_NUM_THREADS='1')
    command = [sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider', *named(tests)]
    try:
        status = subprocess.run(command, cwd=root, env=env, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, timeout=limit).returncode
    except subprocess.TimeoutExpired: status = 1
    if status == 5: sys.exit(f'mutate: {tests} names no tests')
    return status == 0, time.time() - start


def changed(text, old, new):
    "`text` with the only `old` in it replaced; None where it is not there, or more than once."
    return text.replace(old, new) if text.count(old) == 1 else None


def outcome(root, file, old, new, tests):
    "Make `old` in `file` wrong, run the tests, and put it back: 'killed', 'SURVIVED' or 'LOST'."
    path = root / 'cifar_nb' / file
    text = path.read_text(encoding='utf-8')
    wrong = changed(text, old, new)
    if wrong is None: return f'LOST: stands there {text.count(old)} times', 0
    try: compile(wrong, file, 'exec')
    except SyntaxError as e: return f'LOST: is not Python ({e.msg})', 0
    try:
        path.write_text(wrong, encoding='utf-8')
        ok, seconds = passes(root, tests)
    finally: path.write_text(text, encoding='utf-8')
    return 'SURVIVED' if ok else 'killed', seconds


def main(argv):
    words = [a for a in argv if not a.startswith('--')]
    chosen = [m for m in read() if not words or any(w in ' '.join(m) for w in words)]
    def told(m): return f'{m[0]}: {m[1].strip()[:60]} -> {m[2].strip()[:40]}'.replace('\n', ' ')
    if '--list' in argv:
        for m in chosen: print(told(m))
        return 0
    bad = 0
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp) / 'copy'
        shutil.copytree(ROOT, root, ignore=LEAVE)
        files = sorted({a for m in chosen for a in named(m[3]) if a.endswith('.py')})
        if not passes(root, ' '.join(files), 10 * LIMIT)[0]:
            sys.exit('mutate: these tests fail as things are: pytest ' + ' '.join(files))
        for m in chosen:
            what, seconds = outcome(root, *m)
            bad += what != 'killed'
            print(f'{what:8} {seconds:4.0f} s  {told(m)}', flush=True)
    print(f'{len(chosen) - bad} of {len(chosen)} killed')
    return bool(bad)


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
