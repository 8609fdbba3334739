"""Predictions: nothing runs before a guess is written down; outcomes are compared, recorded, and
measured again when the experiment has changed."""
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cifar_nb.core.errors import InputError
from cifar_nb.exercises import checker, predictions
from cifar_nb.exercises.checker import exercise, judge, progress, read_progress
from cifar_nb.exercises.predictions import compare_prediction as compare
from cifar_nb.exercises.predictions import prediction, recorded_outcomes
from cifar_nb.kernels import dispatch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import predictions as tool

RUNS, OFFSET = [], 5


def helper(seed): return 10 * seed + OFFSET


def experiment(seed):
    RUNS.append(seed)
    return helper(seed)


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    "A memory and a file of records of its own for each test."
    monkeypatch.setenv("CIFAR_NB_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.setattr(predictions.resources, "files", lambda package: tmp_path)
    RUNS.clear()
    return tmp_path / "progress.json"


@pytest.fixture
def guess():
    "A prediction called demo.1; its experiment gives 5 for seed 0, 15 for seed 1."
    prediction("demo.1", "Five", "It is odd.", "It is below six.", unit="points",
               why="Nobody knows.", difficulty=1, importance=5, minutes=5)(experiment)
    yield "demo.1"
    for name in [n for n in checker._exercises if n.startswith("demo")]:
        del checker._exercises[name]


@pytest.fixture
def records(tmp_path): return tmp_path / "recorded.json"


@pytest.fixture
def images(monkeypatch):
    "CIFAR-10 as far as the tool looks at it."
    class Found: name = "cifar10"
    monkeypatch.setattr(tool, "load_set", lambda *args, **kwargs: Found)
    return Found


def test_the_decorator_keeps_the_function_and_the_marks(guess):
    e = checker.find_exercise(guess)
    assert e.look is experiment and (e.unit, e.why) == ("points", "Nobody knows.")
    assert e.marks == "difficulty 1, importance 5, 5 minutes"


@pytest.mark.parametrize("nothing", [None, ..., (..., ...), [None, None], (..., None)])
def test_without_a_guess_nothing_runs(guess, memory, nothing):
    verdict = compare(guess, nothing)
    assert verdict.state == "unsolved" and verdict.outcome is None and not RUNS
    assert verdict.message == "Write your interval first; then run the cell again."
    assert not memory.exists() and "Hint 1" in verdict._repr_html_()


@pytest.mark.parametrize(
    "malformed", [5, "12", "3 to 4", (1,), (1, 2, 3), (1, "2"), ("a", "b"), (True, False),
                  (1, None), (1, ...), {1, 2}, {1: 2, 3: 4}, lambda: 1, [[1], [2]], (1 + 2j, 3),
                  object()])
def test_what_is_no_interval_is_wrong_and_runs_nothing(guess, memory, malformed):
    verdict = compare(guess, malformed)
    assert verdict.state == "wrong" and not RUNS and not memory.exists()
    assert "is no prediction: write two numbers, (low, high)." in verdict.message


@pytest.mark.parametrize("ends, why", [
    ((2, 1), "The lower end, 2, stands above the upper one, 1."),
    ((math.nan, 1), "Both ends of the interval must be finite numbers."),
    ((0, math.inf), "Both ends of the interval must be finite numbers.")])
def test_an_interval_without_order_or_end_is_wrong(guess, ends, why):
    verdict = compare(guess, ends)
    assert (verdict.state, verdict.message, RUNS) == ("wrong", why, [])


@pytest.mark.parametrize("ends, where", [
    ((4, 6), "inside"), ((5, 5), "inside"), ([5, 9], "inside"), ((1, 5), "inside"),
    ((np.float32(4), np.int64(6)), "inside"), ((1, 4.9), "above"), ((5.1, 9), "below"),
    ((-9, -3), "above")])
def test_the_sentence_says_where_the_outcome_lies(guess, ends, where):
    verdict = compare(guess, ends)
    low, high = map(float, ends)
    assert verdict.state == "solved" and RUNS == [0] and verdict.outcome == 5
    assert verdict.guess == (low, high)
    assert verdict.message == (f"You said {low:g} to {high:g} points; this run gave 5.00, {where} "
                               "your interval. Nobody knows.")


def test_small_outcomes_keep_their_digits(guess):
    assert "this run gave 0.0031, inside" in compare(guess, (0, 1), lambda seed: .0031).message
    assert "this run gave -0.35, inside" in compare(guess, (-1, 1), lambda seed: -.35).message


@pytest.mark.parametrize("outcome, said", [
    (math.nan, "The experiment gave nan, which is no outcome."),
    (-math.inf, "The experiment gave -inf, which is no outcome."),
    (None, "The experiment gave None, which is no number.")])
def test_a_run_without_an_outcome_is_wrong(guess, memory, outcome, said):
    verdict = compare(guess, (4, 6), lambda seed: outcome)
    assert (verdict.state, verdict.message, verdict.outcome) == ("wrong", said, None)
    assert not memory.exists()


def test_ones_own_run_and_another_seed(guess):
    assert compare(guess, (0, 50), seed=2).outcome == 25 and RUNS == [2]
    assert compare(guess, (0, 50), lambda seed: torch.tensor(seed + .5), seed=3).outcome == 3.5
    assert RUNS == [2]


def test_it_is_remembered_whatever_was_guessed(guess, memory):
    compare(guess, (100, 200))
    assert json.loads(memory.read_text(encoding="utf-8")) == {guess: "solved"}
    assert progress()[guess] == "solved"
    compare(guess, (2, 1))
    compare(guess, ...)
    assert read_progress() == {guess: "solved"}


def test_without_a_place_to_write_the_outcome_comes_all_the_same(guess, memory, monkeypatch,
                                                                 capsys):
    memory.write_text("{}", encoding="utf-8")
    monkeypatch.setenv("CIFAR_NB_PROGRESS", str(memory / "below"))
    assert compare(guess, (4, 6)).state == "solved"
    assert "CIFAR_NB_PROGRESS" in capsys.readouterr().out


def test_check_and_compare_do_not_take_each_others_exercises(guess):
    verdict = judge(guess, (4, 6))
    assert verdict.state == "wrong" and "`compare_prediction`" in verdict.message and not RUNS
    assert judge(guess, ...).state == "unsolved"
    exercise("demo.2", "Three", "More.", "Less.")(lambda answer: None)
    with pytest.raises(InputError, match="demo.2 is no prediction; its answer goes to `check`"):
        compare("demo.2", (1, 2))


def test_recorded_values_appear_with_their_number(guess, records):
    assert recorded_outcomes(guess) is None
    records.write_text("{}", encoding="utf-8")
    assert recorded_outcomes(guess) is None and "Recorded" not in compare(guess, (4, 6)).message
    record = dict(values=[4., 5., 9.], data="CIFAR-10", machine="A machine")
    records.write_text(json.dumps({guess: record}), encoding="utf-8")
    assert compare(guess, (4, 6)).message == (  # (4 + 5 + 9)/3 = 6; variance (4 + 1 + 9)/2 = 7
        "You said 4 to 6 points; this run gave 5.00, inside your interval. Recorded: 6.00 ± 2.65 "
        "(mean and standard deviation over 3 seeds, CIFAR-10, A machine). Nobody knows.")
    records.write_text(json.dumps({guess: record | dict(values=[4.])}), encoding="utf-8")
    assert "Recorded: 4.00 (one seed, CIFAR-10, A machine)." in compare(guess, (4, 6)).message


@pytest.mark.parametrize("states, after", [
    ({"01.2": "solved"}, {"data.2": "solved"}),
    ({"01.2": "solved", "data.2": "wrong"}, {"data.2": "solved"}),
    ({"01.2": "wrong", "data.2": "solved"}, {"data.2": "solved"}),
    ({"02a.1": "wrong", "07b.3": "solved"}, {"colour.1": "wrong", "inside.3": "solved"}),
    ({"01.2": "half", "14.1": "solved"}, {"neural_nomads.1": "solved"})])
def test_numbers_become_names_when_read_and_when_written(guess, memory, states, after):
    memory.write_text(json.dumps(states), encoding="utf-8")
    assert read_progress() == after
    compare(guess, (4, 6))
    written = json.loads(memory.read_text(encoding="utf-8"))
    assert {k: v for k, v in written.items() if v != "half"} == after | {guess: "solved"}
    assert not any(name[0].isdigit() for name in written)
    assert read_progress() == after | {guess: "solved"}


def test_an_exercise_is_found_by_its_old_number(guess):
    assert checker.find_exercise("01.2").name == "data.2"
    assert judge("01.2", ...).name == "data.2"


def test_a_numbered_exercise_is_wrong_once_more_under_its_name(memory):
    memory.write_text('{"01.2": "solved"}', encoding="utf-8")
    checker.remember_verdict(checker.Verdict("data.2", "", "wrong", ""))
    assert read_progress() == {"data.2": "solved"}


# ---- tools/predictions.py

def measured(records): return json.loads(records.read_text(encoding="utf-8"))


def record(guess, records, *argv):
    said = []
    status = tool.main([guess, *argv], records, lambda text, flush=True: said.append(text))
    return status, said


def test_seeds_are_measured_in_order_and_written_down(guess, records, images):
    status, said = record(guess, records, "--seeds", "3")
    assert status == 0 and RUNS == [0, 1, 2] and len(said) == 3
    (found,) = measured(records).values()
    assert found["values"] == [5, 15, 25] and len(found["seconds"]) == 3
    assert found["data"] == "CIFAR-10" and found["unit"] == "points" and found["kernels"] == []
    assert found["machine"] == tool.hardware("cpu") and found["threads"] == torch.get_num_threads()
    assert found["torch"] == torch.__version__.split("+")[0]
    assert "over 3 seeds" in compare(guess, (4, 6)).message
    assert {p.name for p in records.parent.iterdir()} - {".progress.json.lock"} == {
        "recorded.json", ".recorded.json.lock", "progress.json"}, "no half-written file is left"


def test_what_is_complete_is_skipped_and_what_is_not_goes_on(guess, records, images):
    record(guess, records, "--seeds", "2")
    assert record(guess, records, "--seeds", "2") == (0, []) and RUNS == [0, 1]
    record(guess, records, "--seeds", "4")
    assert RUNS == [0, 1, 2, 3] and measured(records)[guess]["values"] == [5, 15, 25, 35]
    record(guess, records, "--seeds", "1")
    assert RUNS == [0, 1, 2, 3] and len(measured(records)[guess]["values"]) == 4


def test_other_records_stay_and_names_are_sorted(guess, records, images):
    records.write_text('{"zero.1": {"values": [1]}, "alpha.2": {"values": [2]}}', encoding="utf-8")
    record(guess, records, "--seeds", "1")
    found = measured(records)
    assert list(found) == ["alpha.2", guess, "zero.1"] and found["zero.1"] == {"values": [1]}


EXPERIMENT = """
from cifar_nb.exercises.predictions import prediction
FACTOR = 10
TABLE = {'offset': 5}
class Step:
    size = 0
    def __call__(self, seed): return FACTOR * seed + self.size
def helper(seed): return Step()(seed) + TABLE['offset']
def unused(): return 1
@prediction('demo.1', 'Five', 'A hint.', unit='points', why='Nobody knows.')
def run(seed):
    inner = lambda s: helper(s)
    return inner(seed)
"""


def written(tmp_path, monkeypatch, text, n):
    "The module `text`, imported."
    path = tmp_path / f"module_{n}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("demo_module", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "demo_module", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("old, new, values", [
    ("FACTOR = 10", "FACTOR = 20", [5, 25]), ("'offset': 5", "'offset': 6", [6, 16]),
    ("size = 0", "size = 1", [6, 16]), ("(seed) + TABLE", "(seed) - TABLE", [-5, 5]),
    ("lambda s: helper(s)", "lambda s: 2 * helper(s)", [10, 30])])
def test_a_changed_experiment_is_measured_anew(guess, records, images, monkeypatch, tmp_path, old,
                                               new, values):
    written(tmp_path, monkeypatch, EXPERIMENT, 1)
    record(guess, records, "--seeds", "2")
    assert measured(records)[guess]["values"] == [5, 15]
    written(tmp_path, monkeypatch, EXPERIMENT.replace(old, new), 2)
    assert record(guess, records, "--seeds", "2", "--check") == (
        1, [f"{guess} is due: python tools/predictions.py {guess}"])
    record(guess, records, "--seeds", "2")
    assert measured(records)[guess]["values"] == values
    assert record(guess, records, "--seeds", "2", "--check") == (0, [])


@pytest.mark.parametrize("old, new", [
    ("'Five', 'A hint.'", "'5', 'Another hint.', difficulty=3"), ("'Nobody knows.'", "'We know.'"),
    ("return 1\n", "return 2\n"), ("class Step", "OTHER = 3\n\nclass Step")])
def test_what_decides_nothing_may_change(guess, records, images, monkeypatch, tmp_path, old, new):
    written(tmp_path, monkeypatch, EXPERIMENT, 1)
    record(guess, records, "--seeds", "2")
    written(tmp_path, monkeypatch, EXPERIMENT.replace(old, new), 2)
    assert record(guess, records, "--seeds", "2", "--check") == (0, [])


def test_the_decorator_is_no_part_of_the_experiment():
    @prediction("demo.9", "One", "A hint.", unit="points", why="")
    def first(seed): return 1.5
    inside = tool.bare(first)
    del checker._exercises["demo.9"]
    assert inside == "def first(seed): return 1.5"


def test_another_machine_begins_anew(guess, records, images, monkeypatch):
    record(guess, records, "--seeds", "2")
    monkeypatch.setattr(tool, "hardware", lambda device: "Another machine")
    assert record(guess, records, "--seeds", "2") == (0, []), "what is complete stays"
    record(guess, records, "--seeds", "3")
    assert RUNS == [0, 1, 0, 1, 2] and measured(records)[guess]["machine"] == "Another machine"


def test_an_edit_during_the_runs_is_noticed(guess, records, images, monkeypatch, tmp_path):
    "What runs is the old experiment, whatever the file says by then: it is due once more."
    text = EXPERIMENT + """
@prediction('demo.2', 'Six', 'A hint.', unit='points', why='')
def later(seed): return helper(seed) + 1
"""
    edited = text.replace("FACTOR * seed", "FACTOR * seed + 1")
    module = written(tmp_path, monkeypatch, text, 1)
    def one(*args, one=tool.one):
        Path(module.__file__).write_text(edited, encoding="utf-8")
        return one(*args)
    monkeypatch.setattr(tool, "one", one)
    assert tool.main(["demo", "--seeds", "2"], records, lambda *a, **k: None) == 0
    assert measured(records)["demo.2"]["values"] == [6, 16]
    written(tmp_path, monkeypatch, edited, 2)
    status, said = record("demo", records, "--seeds", "2", "--check")
    assert status == 1 and len(said) == 2


def test_an_interruption_loses_the_run_at_hand_and_no_other(guess, records, images, monkeypatch):
    def stopped(seed):
        if seed == 2: raise KeyboardInterrupt
        return experiment(seed)
    prediction("demo.1", "Five", "A hint.", unit="points", why="")(stopped)
    with pytest.raises(KeyboardInterrupt): record(guess, records)
    assert measured(records)[guess]["values"] == [5, 15]


@pytest.mark.parametrize("bad", [lambda seed: math.nan, lambda seed: 1 / 0, lambda seed: None])
def test_a_failed_experiment_is_told_and_the_others_are_measured(guess, records, images, capsys,
                                                                 bad):
    prediction("demo.2", "Bad", "A hint.", unit="points", why="")(bad)
    assert record("demo", records, "--seeds", "1")[0] == 1
    assert list(measured(records)) == [guess]
    assert capsys.readouterr().err.startswith("predictions: demo.2: ")


def test_the_kernels_in_use_are_written_down(guess, records, images, monkeypatch):
    monkeypatch.setattr(dispatch, "use_cpu_kernels", lambda *args, **kwargs: ["winograd"])
    plain = dispatch.use_cpu_kernels
    def with_kernels(seed):
        with dispatch.cpu_kernels(torch.nn.Linear(1, 1)): return seed
    prediction("demo.1", "Five", "A hint.", unit="points", why="")(with_kernels)
    record(guess, records, "--seeds", "2")
    assert measured(records)[guess]["kernels"] == ["winograd"]
    assert dispatch.use_cpu_kernels is plain


def test_mistakes_of_the_call_are_one_sentence(guess, records, images, capsys):
    for argv, why in (["nonsense"], "There is no prediction 'nonsense'"), (
        [guess, "--seeds", "0"], "ask for one or more"):
        assert tool.main(argv, records) == 2
        told = capsys.readouterr().err
        assert why in told and told.count("\n") == 1
    images.name = "pictures-12345678"
    assert tool.main([guess], records) == 2 and "not CIFAR-10" in capsys.readouterr().err
    assert not records.exists() and not RUNS


def test_the_toy_set_is_refused(guess, records, monkeypatch, capsys):
    monkeypatch.setenv("CIFAR_NB_DATA", "toy")
    assert tool.main([guess], records) == 2
    assert "are not CIFAR-10 (toy)" in capsys.readouterr().err
    assert not records.exists() and not RUNS


def test_the_tool_runs_by_itself(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "tools/predictions.py", "nonsense"], cwd=tmp_path,
                          capture_output=True, encoding="utf-8")
    assert done.returncode == 2 and done.stderr.startswith("predictions: There is no prediction")


def test_every_experiment_is_recorded_as_it_is_now():
    "What the book shows as recorded was measured with the experiments as they are, three times."
    known = {e.name: e for e in tool.chosen() if not e.name.startswith("demo")}
    records = json.loads(tool.FILE.read_text(encoding="utf-8"))
    assert records.keys() == known.keys()
    for name, r in records.items():
        assert r["source"] == tool.source_of(known[name]), f"{name}: python tools/predictions.py"
        assert r["data"] == "CIFAR-10" and r["unit"] == known[name].unit
        assert len(r["values"]) == len(r["seconds"]) >= 3 and all(map(math.isfinite, r["values"]))
