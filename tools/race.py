"""Images per second of two commits, training in turns: has a change cost speed?

    python tools/race.py e242a67                # against what lies here
    python tools/race.py e242a67 HEAD --turns 15

Each commit is unpacked and gets a process that stays; the two train by turns, never at the same
time. Printed are the medians, and median and quartiles of the ratio of neighbours.
"""
import argparse
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLANS = {"quick": 5000, "narrow_resnet": 640}  # recipe: the first so many images of the toy set
EPOCHS = 3

WORKER = """
import json, sys
sys.path.insert(0, sys.argv[1])
import cifar_nb
assert cifar_nb.__file__.startswith(sys.argv[1]), cifar_nb.__file__
try:
    from cifar_nb.data.cifar import toy
    from cifar_nb.teams.zoo import get_recipe
    from cifar_nb.training.train import train
except ImportError:  # before there were layers
    from cifar_nb.data import toy
    from cifar_nb.recipes import get_recipe
    from cifar_nb.training import train
x, y = toy(max(json.loads(sys.argv[2]).values()))
for line in sys.stdin:
    name, n, epochs = json.loads(line)
    recipe = get_recipe(name).with_epochs(epochs)
    t = train(recipe, x[:n], y[:n], device='cpu', progress=False, say=str)
    print(json.dumps([line['images_per_second'] for line in t.timing[1:]]), flush=True)
"""


def unpacked(commit, folder: Path) -> Path:
    "The files of `commit` in `folder`; what lies here, without a commit."
    if commit is None: return ROOT
    data = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(data.stdout)) as t: t.extractall(folder)
    return folder


class Worker:
    "A process that trains with the code in the folder `code` when it is asked to."
    def __init__(self, code: Path):
        command = [sys.executable, "-c", WORKER, str(code), json.dumps(PLANS)]
        self.p = subprocess.Popen(command, cwd=code, encoding="utf-8",
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def speed(self, name) -> float:
        "Images per second of a short training of the recipe `name`, without its first epoch."
        print(json.dumps([name, PLANS[name], EPOCHS]), file=self.p.stdin, flush=True)
        answer = self.p.stdout.readline()
        if not answer: sys.exit("A commit cannot train: what it says stands above.")
        return statistics.mean(json.loads(answer))

    def end(self):
        self.p.stdin.close()
        self.p.wait()


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("old", help="a commit")
    p.add_argument("new", nargs="?", help="another (default: what lies here)")
    p.add_argument("--turns", type=int, default=11)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as d:
        codes = [unpacked(c, Path(d) / str(i)) for i, c in enumerate((a.old, a.new))]
        workers = [Worker(code) for code in codes]
        for name in PLANS:
            for w in workers: w.speed(name)  # compiles, warms up
            rows = [[w.speed(name) for w in workers] for _ in range(a.turns)]
            old, new = (statistics.median(column) for column in zip(*rows))
            low, middle, high = statistics.quantiles([n / o for o, n in rows])
            print(f"{name:15}{old:9.1f}{new:9.1f} images/s   ratio {middle:.3f} "
                  f"({low:.3f} to {high:.3f}, {a.turns} turns)", flush=True)
        for w in workers: w.end()


if __name__ == "__main__": main()
