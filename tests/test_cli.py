"""The command as a separate process: what a cell cannot test. Kills, signals, full disks, and the
status that the shell sees."""
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
import warm

from cifar_nb.cli.arguments import parser
from cifar_nb.core.errors import InputError

ROOT = Path(__file__).parent.parent
NARROW = ["--set", "widths=[8, 16, 32]"]  # what is tried here does not hang on the width
TRAIN = ["train", "small", "--data", "toy", "--images", "384", "--epochs", "30", "--device",
         "cpu", "--seed", "3", *NARROW]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and limits are those of POSIX")


def start(*argv, cwd, **kwargs):
    env = {k: v for k, v in os.environ.items() if k != "CIFAR_NB_DATA"} | {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return warm.start(*argv, cwd=cwd, env=env, **kwargs)


def call(*argv, cwd, **kwargs):
    p = start(*argv, cwd=cwd, **kwargs)
    out, err = p.communicate(timeout=300)
    return p.returncode, out, err


def wait_for_line(p, file, n, then=.05):
    "Wait until `file` has `n` lines, and a little longer, so that the next epoch is under way."
    end = time.time() + 120
    while time.time() < end:
        if p.poll() is not None: pytest.fail(f"ended early: {p.communicate()}")
        if file.exists() and len(file.read_text(encoding="utf-8").splitlines()) >= n:
            return time.sleep(then)
        time.sleep(.02)
    pytest.fail(f"{file} never had {n} lines")


def one_line(err):
    return [line for line in err.splitlines() if "it/s" not in line and "step/s" not in line
            and line.strip() and "%|" not in line]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "A run that nobody disturbs."
    here = tmp_path_factory.mktemp("alone")
    status, out, err = call(*TRAIN, "--out", "run", cwd=here)
    assert status == 0, err
    return here / "run"


def test_a_run_leaves_what_the_readme_promises(alone):
    names = {p.name for p in alone.iterdir()}
    assert {"recipe.json", "log.jsonl", "timing.jsonl", "model.safetensors", "result.json",
            "report.md", "curves.png", "confusion.png",
            "mistakes.png", "test_predictions.csv"} <= names and "checkpoint.pt" not in names
    result = json.loads((alone / "result.json").read_text(encoding="utf-8"))
    assert (result["data"] == "toy" and result["images_per_second"] > 0
            and result["parameters"] < 5_000_000)
    assert (alone / "test_predictions.csv").read_text(encoding="utf-8").startswith("ID,Labels\n0,")


def test_with_a_hold_out_the_test_images_are_left_alone(alone, tmp_path):
    """Only the validation images are read, and nothing is filed as a test; with `--test` both are
    evaluated. What measures or keeps test figures asks for `--test`."""
    status, out, err = call(*TRAIN, "--holdout", "40", "--out", "run", cwd=tmp_path)
    assert status == 0 and "% of 40 validation set images" in out and "left alone" in out, err
    there = tmp_path / "run"
    result = json.loads((there / "result.json").read_text(encoding="utf-8"))
    assert "test" not in result and not [*there.glob("*.csv")]
    (e,) = [json.loads(p.read_text(encoding="utf-8")) for p in (there / "evaluations").iterdir()]
    log = map(json.loads, (there / "log.jsonl").read_text(encoding="utf-8").splitlines())
    assert e["images"]["data"] == "toy, held out of the training" and e["images"]["images"] == 40
    report = (there / "report.md").read_text(encoding="utf-8")
    assert "| images | 40 (validation set) |" in report and "test" not in report.lower()
    assert e["metrics"]["accuracy"] == max(row["val_accuracy"] for row in log)  # the epoch kept
    status, out, err = call(*TRAIN, "--holdout", "40", "--out", "run", "--resume", cwd=tmp_path)
    assert status == 2 and "already finished" in err and "reads the test images" in err
    for flag in (["--results", "kept"], ["--curve", "--out", "kept"]):
        status, out, err = call(*TRAIN, "--holdout", "40", *flag, cwd=tmp_path)
        assert status == 2 and "--test" in one_line(err)[-1] and not (tmp_path / "kept").exists()
    status, out, err = call(*TRAIN, "--holdout", "40", "--test", "--out", "two", cwd=tmp_path)
    assert status == 0 and "toy test set" in out and len([*tmp_path.glob("two/*.csv")]) == 1, err
    assert "test" in json.loads((tmp_path / "two/result.json").read_text(encoding="utf-8"))
    assert "validation set" in out and len(list((tmp_path / "two/evaluations").iterdir())) == 2


@pytest.mark.parametrize("more, files", [
    ((), ["test_predictions.csv"]), (("--holdout", "40"), []),
    (("--competition", "course.pkl"), ["submission.csv"]),
    (("--competition", "course.pkl", "--holdout", "40"), ["submission.csv"])])
def test_only_the_competitions_images_have_a_submission(tmp_path, monkeypatch, capsys, more, files):
    import pickle

    from cifar_nb.cli import main
    from cifar_nb.data.cifar import toy
    from cifar_nb.evaluation.tta import read_submission
    monkeypatch.chdir(tmp_path)
    images = toy(20, seed=5)[0].permute(0, 2, 3, 1).numpy()
    (tmp_path / "course.pkl").write_bytes(
        pickle.dumps({b"data": images, b"ids": [*range(100, 120)]}))
    assert main([*TRAIN, "--epochs", "1", "--out", "run", *more]) == 0
    said = capsys.readouterr().out
    assert [p.name for p in tmp_path.glob("run/*.csv")] == files
    assert all(str(Path("run", name)) in said for name in files)
    assert ("ATTENTION: this is no submission" in said) == (files == ["test_predictions.csv"])
    for name in files:
        wanted = range(100, 120) if name == "submission.csv" else range(1000)
        assert read_submission(tmp_path / "run" / name)[0].tolist() == [*wanted]


def test_a_hold_out_without_a_number_is_a_tenth(tmp_path, monkeypatch, capsys):
    "At the end of the call, and before another option."
    from cifar_nb.cli import main
    monkeypatch.chdir(tmp_path)
    asked = [*TRAIN, "--epochs", "1"]
    assert main([*asked, "--holdout"]) == main([*asked, "--holdout", "--test"]) == 0
    assert capsys.readouterr().out.count("% of 38 validation set images") == 2


def commands():
    (found,) = [a for a in parser()._actions if a.dest == "command"]
    return found.choices


def test_each_example_of_a_setting_can_be_typed():
    "In zsh, too, where brackets without quotation marks are a pattern."
    (option,) = [a for a in commands()["train"]._actions if a.dest == "settings"]
    examples = re.findall(r'''"[^"]*"|'[^']*'|[\w.]+=[^,\s]+''', option.help)
    assert len(examples) == 6
    for example in examples:
        assert example[0] in "'\"" or re.fullmatch(r"[\w.]+=[\w.]+", example), example
        (asked,) = shlex.split(example)
        ((key, value),) = parser().parse_args(["train", "quick", "--set", asked]).settings
        assert asked.startswith(f"{key}=") and type(value) is not str


def test_each_option_for_a_device_says_which_is_taken_on_a_mac():
    found = {name: a.help for name, p in commands().items() for a in p._actions
             if "--device" in a.option_strings}
    assert {"train", "evaluate", "predict", "bench", "reproduce"} <= {*found}
    for name, text in found.items():
        which = "every" if name == "reproduce" else "the first"
        assert f"default: {which} CUDA GPU, else the CPU; 'mps' must be named" in text


def options_without_a_value():
    "Each option of each command that may stand without its value, with what must stand before it."
    for name, p in commands().items():
        needed = [[*(a.choices or ["x"])][0] for a in p._actions
                  if not a.option_strings and a.nargs not in ("?", "*")]
        for a in p._actions:
            if a.option_strings and a.nargs == "?": yield name, *needed, a.option_strings[0]


def test_an_option_may_stand_without_its_value():
    found = [*options_without_a_value()]
    assert {call[-1] for call in found} == {"--holdout", "--compile"}
    for call in found:
        at_the_end, before = parser().parse_args(call), parser().parse_args([*call, "--curve"])
        name = call[-1][2:]
        assert getattr(at_the_end, name) == getattr(before, name)
        assert getattr(at_the_end, name) != getattr(parser().parse_args(call[:-1]), name)


@pytest.mark.parametrize(
    "signum, status", [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_in_epoch_2_and_resumed_ends_with_the_same_numbers(
    alone, tmp_path, signum, status):
    p = start(*TRAIN, "--out", "run", cwd=tmp_path)
    wait_for_line(p, tmp_path / "run" / "log.jsonl", 1)
    p.send_signal(signum)
    out, err = p.communicate(timeout=60)
    assert p.returncode == status and not (tmp_path / "run" / "result.json").exists()
    if signum != signal.SIGKILL: assert "--resume" in one_line(err)[-1]
    status, out, err = call(*TRAIN, "--out", "run", "--resume", cwd=tmp_path)
    assert status == 0, err
    assert (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8") == (
        alone / "log.jsonl").read_text(encoding="utf-8")
    ours, theirs = (load_file(run / "model.safetensors") for run in (tmp_path / "run", alone))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_killed_before_the_first_checkpoint_starts_again(tmp_path):
    p = start(*TRAIN, "--epochs", "1", "--out", "run", cwd=tmp_path)
    end = time.time() + 60
    while not (tmp_path / "run" / "recipe.json").exists() and time.time() < end: time.sleep(.02)
    p.kill()
    p.communicate()
    status, out, err = call(*TRAIN, "--epochs", "1", "--out", "run", "--resume", cwd=tmp_path)
    assert status == 0, err


def mistake(status, err):
    assert status == 2
    assert "Traceback" not in err and len(one_line(err)) == 1, err
    return one_line(err)[0]


def test_a_finished_run_is_not_trained_again(alone):
    before = {p: p.read_bytes() for p in alone.rglob("*") if p.is_file()}
    status, out, err = call(*TRAIN, "--out", "run", "--resume", cwd=alone.parent)
    assert "already finished" in mistake(status, err)
    status, out, err = call(*TRAIN, "--out", "run", cwd=alone.parent)
    assert "--resume" in mistake(status, err)
    assert {p: p.read_bytes() for p in alone.rglob("*") if p.is_file()} == before


def test_a_checkpoint_that_is_cut_off_or_of_another_training(tmp_path):
    p = start(*TRAIN, "--out", "run", cwd=tmp_path)
    wait_for_line(p, tmp_path / "run" / "log.jsonl", 1)
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=60)
    status, out, err = call(*[a if a != "3" else "4" for a in TRAIN], "--out", "run", "--resume",
                            cwd=tmp_path)
    assert "the seed differs" in mistake(status, err)
    status, out, err = call(*TRAIN, "--epochs", "5", "--out", "run", "--resume", cwd=tmp_path)
    assert "the recipe differs" in mistake(status, err)
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:20_000])
    status, out, err = call(*TRAIN, "--out", "run", "--resume", cwd=tmp_path)
    assert "may be cut off" in mistake(status, err)


def test_a_checkpoint_cannot_execute_anything(tmp_path):
    import pickle
    p = start(*TRAIN, "--out", "run", cwd=tmp_path)
    wait_for_line(p, tmp_path / "run" / "log.jsonl", 1)
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=60)

    class Evil:
        def __reduce__(self): return os.mkdir, (str(tmp_path / "executed"),)
    torch.save(Evil(), tmp_path / "run" / "checkpoint.pt", pickle_module=pickle)
    status, out, err = call(*TRAIN, "--out", "run", "--resume", cwd=tmp_path)
    assert "cannot be read" in mistake(status, err)
    assert not (tmp_path / "executed").exists()


def test_a_disk_that_is_full(tmp_path):
    """A limit on the size of a file stands in for the full disk: the weights do not fit, the log
    does."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    status, out, err = call(*TRAIN, "--out", "run", cwd=tmp_path, preexec_fn=limit)
    assert "cannot be written" in mistake(status, err)
    left = {p.name for p in (tmp_path / "run").iterdir()}
    assert left <= {".lock", "manifest.json", "recipe.json", "log.jsonl",
                    "timing.jsonl"}, "a half-written file is left"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    status, out, err = call(*TRAIN, "--out", "file/run", cwd=tmp_path)
    assert "cannot be made" in mistake(status, err)
    if os.geteuid():  # root may write everywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        status, out, err = call(*TRAIN, "--out", "locked/run", cwd=tmp_path)
        assert "cannot be made" in mistake(status, err)


def test_without_data_and_network_the_toy_set_is_announced(tmp_path):
    "Nothing in the cache, no way out: one sentence, and the job is done on the toy set."
    env = os.environ | {"CIFAR_NB_CACHE": str(tmp_path / "cache"),
                        "KAGGLE_INPUT": str(tmp_path / "none"), "PYTHONPATH": str(ROOT),
                        "https_proxy": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    env.pop("CIFAR_NB_DATA", None)
    code = "import sys; from cifar_nb.cli import main; sys.exit(main())"
    argv = ["train", "small", "--images", "640", "--epochs", "1", "--device", "cpu", "--out", "run",
            *NARROW]
    p = subprocess.run([sys.executable, "-c", code, *argv], cwd=tmp_path, env=env,
                       capture_output=True, timeout=300, encoding="utf-8")
    assert p.returncode == 0, p.stderr
    assert sum("toy set" in line and "could not be had" in line
               for line in p.stdout.splitlines()) == 1
    assert json.loads(
        (tmp_path / "run" / "result.json").read_text(encoding="utf-8"))["data"] == "toy"


def test_a_submission_of_ten_thousand_rows(alone, tmp_path):
    import pickle

    import numpy as np
    ids = np.random.default_rng(0).permutation(10_000)
    images = np.random.default_rng(1).integers(0, 256, (10_000, 32, 32, 3), dtype=np.uint8)
    (tmp_path / "cifar_test_nolabel.pkl").write_bytes(pickle.dumps({b"data": images, b"ids": ids}))
    status, out, err = call("predict", alone, "cifar_test_nolabel.pkl", "--out", "submission.csv",
                            cwd=tmp_path)
    # it knows drawn shapes only
    assert "toy set" in mistake(status, err) and not (tmp_path / "submission.csv").exists()
    status, out, err = call("predict", alone, "cifar_test_nolabel.pkl", "--out", "submission.csv",
                            "--anyway", cwd=tmp_path)
    assert status == 0, err
    assert "pretrained" not in out  # a network of one's own may be handed in
    rows = (tmp_path / "submission.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "ID,Labels" and len(rows) == 10_001
    assert [int(r.split(",")[0]) for r in rows[1:]] == ids.tolist()
    assert {int(r.split(",")[1]) for r in rows[1:]} <= set(range(10))


def test_the_answers_of_a_published_network_come_with_a_warning(tmp_path):
    import pickle

    import numpy as np
    images = np.random.default_rng(1).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    (tmp_path / "course.pkl").write_bytes(pickle.dumps({b"data": images}))
    status, out, err = call("predict", "quick", "course.pkl", "--device", "cpu", cwd=tmp_path)
    assert status == 0, err
    assert "forbids pretrained weights" in out.splitlines()[-1]


@pytest.mark.parametrize("signum, expected", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_reproduce_can_be_stopped_and_goes_on(tmp_path, signum, expected):
    """Stopped in the middle: one sentence, every process gone, and the same command finishes with
    the digits of a run left alone."""
    asked = ["reproduce", "small", "--data", "toy", "--images", "256", "--seeds", "2", "--together",
             "2", "--device", "cpu"]
    p = start(*asked, cwd=tmp_path, start_new_session=True)
    wait_for_line(p, tmp_path / "runs/small-9epochs-seed0-toy-256images/log.jsonl", 2, then=0)
    os.kill(p.pid, signum)
    out, err = p.communicate(timeout=120)
    assert (p.returncode == expected and len(one_line(err)) == 1
            and "the same command goes on" in err), ((out, err))
    assert not list(tmp_path.glob("results/*.json")) and list(tmp_path.glob("runs/*/checkpoint.pt"))
    if signum == signal.SIGINT: return  # what follows does not hang on the signal
    status, out, err = call(*asked, cwd=tmp_path)
    assert (status, out.count("images/s; ")) == (0, 2), (out, err)
    records = {f.name: json.loads(f.read_text(encoding="utf-8"))
               for f in tmp_path.glob("results/*.json")}
    assert sorted(records) == [
        f"small-report-9epochs-seed{s}-cpu-toy-256images.json" for s in (0, 1)]
    status, out, err = call("train", "small", "--data", "toy", "--images", "256", "--seed", "1",
                            "--device", "cpu", "--out", "alone", cwd=tmp_path)
    assert status == 0, err
    alone = [json.loads(line)
             for line in (tmp_path / "alone/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert alone == records["small-report-9epochs-seed1-cpu-toy-256images.json"]["log"]
    status, out, err = call(*asked, cwd=tmp_path)
    assert status == 0 and "All 2 trainings are recorded" in out, (out, err)


def test_a_short_try_never_replaces_a_full_record(tmp_path):
    for images in (256, 300):
        status, out, err = call("train", "small", "--data", "toy", "--epochs", "1", "--images",
                                images, "--device", "cpu", "--results", "results", "--out",
                                f"run{images}", *NARROW, cwd=tmp_path)
        assert status == 0, err
    assert len(list(tmp_path.glob("results/*.json"))) == 2


@pytest.mark.parametrize("asked, words", [
    (["evaluate", "quick"], "quick is a recipe, and the folder of a run is asked for"),
    (["publish", "laptop"], "laptop is a recipe"),
    (["train", "small", "--data", "toy", "--holdout", "-1"],
     "-1 of 5,000 images cannot be held out"),
    (["train", "small", "--data", "toy", "--precision", "fp32 nchw nchw"],
     "There is no precision 'fp32 nchw nchw'"),
])
def test_what_looks_right_and_is_not(asked, words, tmp_path, monkeypatch, capsys):
    from cifar_nb.cli import main
    monkeypatch.chdir(tmp_path)
    assert main(asked) == 2 and words in capsys.readouterr().err and not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    "A finished run, its changed twin, and the course's file, made of the toy set."
    import pickle

    from cifar_nb.cli import main
    from cifar_nb.data.cifar import toy
    here, (x, _) = tmp_path_factory.mktemp("things"), toy(200, seed=5)
    quickly = ["--data", "toy", "--images", "256", "--epochs", "1", "--device", "cpu"]
    for name, more in (("run", []), ("changed", ["--set", "lr=0.05"])):
        assert main(["train", "small", *quickly, *more, "--out", str(here / name)]) == 0
    with open(here / "cifar_test_nolabel.pkl", "wb") as f:
        pickle.dump({b"data": x.permute(0, 2, 3, 1).numpy(), b"ids": list(range(1000, 1200))}, f)
    (here / "submission.csv").write_text("ID,Labels\n1,2\n", encoding="utf-8")
    return here


MISTAKES = [
    "train narow_resnet", "train small --epochs 0", "train small --epochs many",
    "train small --data HERE", "train small --data toy --images 10",
    "train small --data toy --device cuda:99", "train small --data toy --out HERE/run",
    "train small --data toy --variant code", "evaluate HERE", "train small --set lrr=0.05",
    "train small --set lr=fast", "train small --set lr=1 --set optimizer.lr=2",
    'train small --set augment=["RandomCorp"]', "train HERE/changed/result.json",
    "train HERE/mine.json", "ablate optimiser", "publish HERE/run --weights int4", "shift",
    "shift quik", "reproduce dreamfire --data toy --together 0",
    "reproduce dreamfir --data toy --results HERE/results", "bench augment --recipe small",
    "search --trials 0", "predict HERE/run HERE/nothing.pkl --out HERE/new.csv",
    "predict HERE/run HERE/cifar_test_nolabel.pkl --out HERE/submission.csv", "tarin small", ""]


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_the_status_2(things, line, capsys):
    from cifar_nb.cli import main
    before = sorted(p.name for p in things.rglob("*") if not p.name.startswith("."))
    assert main([w.replace("HERE", str(things)) for w in line.split()]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(p.name for p in things.rglob("*") if not p.name.startswith(".")) == before


@pytest.mark.parametrize("asked", [
    ["--images", "100"],
    ["--compile", "max-autotune", "--set", "batch_size=64", "--set", "micro_batch=32"]])
def test_a_training_that_is_refused_leaves_no_folder(asked, tmp_path, monkeypatch, capsys):
    from cifar_nb.cli import main
    monkeypatch.chdir(tmp_path)
    assert main(["train", "small", "--data", "toy", "--device", "cpu", *asked]) == 2
    assert re.search("larger than the 100 training|one micro-batch only", capsys.readouterr().err)
    assert [*tmp_path.rglob("*")] == []


def test_a_place_for_results_is_tried_before_the_work(tmp_path, monkeypatch, capsys):
    from cifar_nb.cli import commands, main
    from cifar_nb.studies import search
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.txt").touch()
    def work(*args, **kwargs): raise AssertionError("work was done for nothing")
    monkeypatch.setattr(commands, "train", work)
    monkeypatch.setattr(search, "search", work)
    train = ["train", "small", "--data", "toy", "--epochs", "1", "--device", "cpu"]
    assert main([*train, "--results", "f.txt/x"]) == 2
    with pytest.raises(InputError, match="cannot be written"):
        commands.bench_rows("norm", "nowhere/x.json", "cpu", work, dict(images=1, repeats=1))
    assert capsys.readouterr().err.count("f.txt/x cannot be made") == 1
    pytest.importorskip("optuna")
    assert main(["search", "--data", "toy", "--results", "f.txt/x"]) == 2
    assert "cannot be made" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["f.txt"]
