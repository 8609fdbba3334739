"""Two processes of `torchrun` that train one network: the same figures, one run folder, and nobody
waits for the dead."""
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from cifar_nb.augment.ops import RandomCrop, RandomHorizontalFlip
from cifar_nb.data.cifar import toy
from cifar_nb.models import resnet as blocks
from cifar_nb.models.resnet import NetSpec
from cifar_nb.recipes.spec import Optimizer, Phase, Recipe, Schedule
from cifar_nb.training.checkpoints import Run
from cifar_nb.training.distributed import Group, asked
from cifar_nb.training.jobs import torchrun_works
from cifar_nb.training.loop import Trainer, gradients
from cifar_nb.training.train import train

pytestmark = pytest.mark.skipif(not torchrun_works(), reason="PyTorch without libuv")

SMALL = Recipe("small", NetSpec(widths=(16, 32), depths=(1, 1), strides=(2, 2)),
               (
                   Phase(3, Optimizer(lr=.1, momentum=.9), Schedule("cosine", t_max=3, unit="step"),
                         batch_size=64, keep_fraction=(1, .8, .6)),), ema=.9)
CODE = """
import sys, time, torch
from pathlib import Path
from cifar_nb.data import cifar as data
from cifar_nb.training import distributed as parallel
from cifar_nb.recipes import spec as recipes
from cifar_nb.core.errors import InputError
from cifar_nb.training import train as training
here, n = Path(sys.argv[1]), int(sys.argv[2])
pause, resume = float(sys.argv[3]), sys.argv[4] == 'resume'
if pause:  # slow enough to be hit
    agree = training.agree
    def slowly(group, signals):
        time.sleep(pause)
        (here / f'pid{group.rank}').write_text(str(__import__('os').getpid()))
        return agree(group, signals)
    training.agree = slowly
recipe = recipes.recipe_from_json((here / 'recipe.json').read_text())
settings = dict(device='cpu', precision='fp32', progress=False)
try: training.train(recipe, *data.toy(n), here / 'run', resume=resume, **settings)
except (InputError, training.Interrupted) as e:
    print(type(e).__name__, e, file=sys.stderr, flush=True)
    sys.exit(2 if isinstance(e, InputError) else 0)
"""


def begin(here, n=500, pause=0., resume=False, processes=2):
    "`CODE` under torchrun, not waited for."
    (here / "job.py").write_text(CODE, encoding="utf-8")
    (here / "recipe.json").write_text(SMALL.to_json(), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
               processes, here / "job.py", here, n, pause, "resume" if resume else "new"]
    return subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
                            encoding="utf-8")


def wait_for(path, seconds=300):
    end = time.time() + seconds
    while not (path.exists() and path.read_text(encoding="utf-8")):
        assert time.time() < end, f"{path} did not come"
        time.sleep(.02)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "Two processes that nobody disturbed; the last batch of an epoch has 65 images, an odd number."
    here = tmp_path_factory.mktemp("alone")
    out, err = (p := begin(here, 961)).communicate(timeout=300)
    assert p.returncode == 0, err
    return here, out


def test_the_loss_falls_in_one_folder_and_one_process_speaks(alone):
    here, out = alone
    log = Run(here / "run").log
    # though only the hardest images are left
    assert log[-1]["train_loss"] < log[0]["train_loss"] - .01
    assert Run(here / "run").result["processes"] == 2
    assert (len(log) == 3 and sum(line.startswith("epoch 1/3") for line in out.splitlines()) == 1
            and "one of 2 processes" in out)
    assert sorted(p.name for p in here.iterdir()) == ["job.py", "recipe.json", "run"]
    one = train(SMALL, *toy(961), device="cpu", precision="fp32", progress=False, say=str).log
    for a, b in zip(log, one):  # batch statistics of 32 images instead of 64: near, not equal
        assert a["lr"] == b["lr"] and abs(a["train_loss"] - b["train_loss"]) < .25, (a, b)


def test_a_signal_to_one_process_ends_both_and_they_go_on_to_the_same_digits(alone, tmp_path):
    p = begin(tmp_path, 961, pause=.05)
    os.kill(int(wait_for(tmp_path / "pid1")), signal.SIGTERM)
    out, err = p.communicate(timeout=300)
    assert p.returncode == 0 and err.count("stopped in epoch") == 2, err
    assert len(set(re.findall("stopped in (epoch .* of 15)", err))) == 1  # both in the same step
    assert (tmp_path / "run/checkpoint.pt").exists() and not (tmp_path / "run/result.json").exists()
    p = begin(tmp_path, 961, resume=True)
    assert "going on in" in p.communicate(timeout=300)[0] and p.returncode == 0
    assert Run(tmp_path / "run").log == Run(alone[0] / "run").log


def test_the_other_ends_when_one_is_killed(tmp_path):
    p = begin(tmp_path, pause=.05)
    os.kill(int(wait_for(tmp_path / "pid1")), signal.SIGKILL)
    start = time.time()
    out, err = p.communicate(timeout=300)
    assert p.returncode != 0 and time.time() - start < 120
    assert (err.count("Lost Process 0 lost the other 1") == 1 and "Gloo" not in err
            and "pair.cc" not in err), (err)


PER_IMAGE = """
import sys, torch
from cifar_nb.models import resnet as blocks
from cifar_nb.data import cifar as data
from cifar_nb.recipes import spec as recipes
from cifar_nb.training import train as training
class PerImage(torch.nn.GroupNorm):
    def __init__(self, c, **_): super().__init__(1, c)
    def forward(self, x, activation=None, add=None):
        return blocks.finish(super().forward(x), activation, add)
blocks.BatchNorm = PerImage
recipe = recipes.recipe_from_json(open(sys.argv[1], encoding='utf-8').read())
training.train(recipe, *data.toy(500), sys.argv[2], holdout=50, device='cpu', precision='fp32',
               progress=False)
"""
PLAN = Recipe("small", NetSpec(widths=(8, 16), depths=(1, 1), strides=(2, 2)),
              (Phase(3, Optimizer(lr=.05, momentum=.9), Schedule("cosine", t_max=3),
                     (RandomCrop(4), RandomHorizontalFlip()), batch_size=64,
                     keep_fraction=(1, .8, .6)),))


class PerImage(nn.GroupNorm):
    "Normalization that sees each image alone, so that half a batch gives what the whole does."
    def __init__(self, c, **_): super().__init__(1, c)
    def forward(self, x, activation=None, add=None):
        return blocks.finish(super().forward(x), activation, add)


def test_without_batch_statistics_two_processes_give_the_digits_of_one(tmp_path, monkeypatch):
    "What remains may differ by the order of sums."
    (tmp_path / "job.py").write_text(PER_IMAGE, encoding="utf-8")
    (tmp_path / "plan.json").write_text(PLAN.to_json(), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
               "2", tmp_path / "job.py", tmp_path / "plan.json", tmp_path / "two"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8",
                          env=os.environ | dict(OMP_NUM_THREADS="1"), timeout=300)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(blocks, "BatchNorm", PerImage)
    one = train(PLAN, *toy(500), holdout=50, precision="fp32", device="cpu", progress=False,
                say=str)
    two = Run(tmp_path / "two")
    assert two.result["processes"] == 2 and "one of 2 processes" in done.stdout.splitlines()[0]
    for a, b in zip(two.log, one.log, strict=True):
        assert [*a.values()] == pytest.approx([*b.values()], abs=1e-2)


def test_which_gpu_a_process_takes(monkeypatch):
    "Of four on the second machine: the place on its own machine, not among all."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Group(5, 8, 1).device() == Group(5, 8, 1).device("cuda") == "cuda:1"
    assert Group(5, 8, 1).device("cpu") == "cpu" and Group().device("cuda") == "cuda"
    for k, v in dict(MASTER_ADDR="x", RANK="5", WORLD_SIZE="8", LOCAL_RANK="1").items():
        monkeypatch.setenv(k, v)
    assert asked() == Group(5, 8, 1)


def test_a_process_without_images_of_a_batch_adds_nothing():
    "Two images for three processes: one has none, and takes an image along that does not count."
    x, y = toy(2)
    p = Phase(2, batch_size=2, keep_fraction=(1, .5), mean=(0,) * 3, std=(1,) * 3)
    t = Trainer(Recipe("r", NetSpec((4,), (1,), (4,)), (p,)), 2, device="cpu", precision="fp32")
    t.net.eval()
    def added(group):
        part, n = group.part(2)
        t.net.zero_grad()
        sums, each = gradients(t, x[part] / 255, y[part], 2, bool(n))
        return sums, each, torch.cat([w.grad.flatten() for w in t.net.parameters()])
    three, (whole, _, grad) = [added(Group(r, 3)) for r in range(3)], added(Group())
    assert [bool(s.any()) for s, _, _ in three].count(False) == 1
    torch.testing.assert_close(sum(s for s, _, _ in three), whole)
    torch.testing.assert_close(sum(g for _, _, g in three), grad, atol=1e-5, rtol=1e-4)
    assert [e.item() for s, e, _ in three if not s.any()] == [0.]
