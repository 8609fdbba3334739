"""Measure what the predictions of the book are about, on CIFAR-10, for several seeds.

    python tools/predictions.py                    # every prediction, seeds 0 to 4
    python tools/predictions.py loop.4 optimizers  # this one, and those of one chapter
    python tools/predictions.py --seeds 3          # seeds 0 to 2
    python tools/predictions.py --check            # run nothing; exit status 1 if something is due

The outcomes go to cifar_nb/exercises/recorded.json, which is written whole after each run, so what
an interruption leaves is complete and the next call goes on. A prediction is skipped while it has
outcomes for all seeds and its experiment is the one that they were measured with: the file keeps a
fingerprint of the source of the function and of what it uses of its own module. Everything runs on
the CPU, as the chapters promise. The toy set is refused. Exit status 1 if an experiment fails.
"""
import argparse
import ast
import inspect
import math
import os
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch

from cifar_nb.core.errors import InputError, check_choice
from cifar_nb.core.manifest import fingerprint
from cifar_nb.core.version import commit
from cifar_nb.data.cifar import load_set
from cifar_nb.exercises import checker
from cifar_nb.exercises.memory import change, recall
from cifar_nb.exercises.predictions import Prediction
from cifar_nb.kernels import dispatch
from cifar_nb.training.precision import hardware

FILE = Path(__file__).resolve().parents[1] / "cifar_nb/exercises/recorded.json"
SEEDS = 5


def bare(thing) -> str:
    "The source of a function or a class without its decorators."
    text = textwrap.dedent(inspect.getsource(thing))
    node = ast.parse(text).body[0]
    return "\n".join(text.splitlines()[node.lineno - 1:]).strip()


def names_in(code) -> set:
    "The global names that the code object `code` uses, and those of the functions in it."
    return set(code.co_names).union(*(names_in(c) for c in code.co_consts if inspect.iscode(c)))


def assignments(module) -> dict:
    "The source of the assignments at the top of `module`, by name."
    text, found = inspect.getsource(module), {}
    for node in ast.parse(text).body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)): continue
        names = [n.id for t in getattr(node, "targets", None) or [node.target]
                 for n in ast.walk(t) if isinstance(n, ast.Name)]
        for name in names: found.setdefault(name, []).append(ast.get_source_segment(text, node))
    return found


def parts(run) -> dict:
    """The source of the experiment `run` and of the functions, classes and constants of its own
    module that it uses, by name."""
    module = inspect.getmodule(run)
    constants, found, todo = assignments(module), {}, [run]
    while todo:
        thing = todo.pop()
        found[thing.__qualname__] = bare(thing)
        methods = vars(thing).values() if inspect.isclass(thing) else [thing]
        for name in set().union(*(names_in(f.__code__) for f in methods if inspect.isfunction(f))):
            value = getattr(module, name, None)
            if name in found: continue
            if getattr(value, "__module__", None) == run.__module__ and (
                inspect.isfunction(value) or inspect.isclass(value)): todo.append(value)
            elif name in constants: found[name] = constants[name]
    return found


def source_of(prediction) -> str:
    "The fingerprint of the experiment: title, hints and `why` may change without a new run."
    return fingerprint(parts(prediction.look))


def chosen(names=()) -> list:
    "The predictions called `names`, or of the chapters called so; all of them for none."
    checker.load_exercises()
    all_of_them = [e for n in checker.progress() if isinstance(e := checker._exercises[n],
                                                               Prediction)]
    for name in names:
        if not any(name in (e.name, e.name.split(".")[0]) for e in all_of_them):
            check_choice("prediction", name, [e.name for e in all_of_them])
    return [e for e in all_of_them
            if not names or e.name in names or e.name.split(".")[0] in names]


def machine() -> dict:
    "What a record says of where it was made, the kernels aside."
    return dict(machine=hardware("cpu"), threads=torch.get_num_threads(),
                torch=torch.__version__.split("+")[0])


def due(prediction, record, seeds: int) -> bool:
    "Whether `record` is not what `prediction` would give for so many `seeds`."
    return (not record or record["source"] != source_of(prediction)
            or len(record["values"]) < seeds)


def begun(prediction, record, source: str) -> dict:
    "The `record` to go on with: the old one if it is of this experiment and this machine."
    here = dict(source=source, data="CIFAR-10", unit=prediction.unit, **machine())
    if record and all(record.get(k) == v for k, v in here.items() if k != "unit"):
        return record | here
    return here | dict(commit=commit(), kernels=[], values=[], seconds=[])


@contextmanager
def noted_kernels():
    "A set that collects the names of the compiled kernels that are used in the block."
    used, original = set(), dispatch.use_cpu_kernels
    def noted(*args, **kwargs):
        names = original(*args, **kwargs)
        used.update(names)
        return names
    dispatch.use_cpu_kernels = noted
    try: yield used
    finally: dispatch.use_cpu_kernels = original


def one(prediction, seed: int, record: dict) -> dict:
    "The `record` with the outcome of one more run; `InputError` if it is no number."
    start = time.perf_counter()
    with noted_kernels() as used: value = float(prediction.look(seed))
    if not math.isfinite(value): raise InputError(f"seed {seed} gave {value}, which is no outcome.")
    return record | dict(kernels=sorted({*record["kernels"], *used}),
                         values=[*record["values"], round(value, 6)],
                         seconds=[*record["seconds"], round(time.perf_counter() - start, 1)])


def measure(prediction, seeds: int, source: str, file=FILE, say=print):
    """Run `prediction`, whose fingerprint is `source`, for the seeds that its record lacks, and
    write it down after each."""
    record = begun(prediction, recall(file).get(prediction.name), source)
    for seed in range(len(record["values"]), seeds):
        record = one(prediction, seed, record)
        change(file, lambda known, new=record: known | {prediction.name: new})
        say(f"{prediction.name} seed {seed}: {record['values'][-1]:.4g} {prediction.unit} "
            f"({record['seconds'][-1]:.0f} s)", flush=True)


def refuse_other_images():
    "`InputError` unless `load` and `load_or_toy` would give CIFAR-10 here."
    name = load_set("train", download=False, say=str).name
    if name != "cifar10":
        raise InputError(f"The images found here are not CIFAR-10 ({name}): set CIFAR_NB_DATA to "
                         "the folder with its six python batches.")


def main(argv, file=FILE, say=print) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a prediction or a chapter")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N")
    parser.add_argument("--check", action="store_true", help="only say what is due")
    asked, failed = parser.parse_args(argv), []
    try:
        if asked.seeds < 1: raise InputError(f"--seeds {asked.seeds}: ask for one or more.")
        known = recall(file)
        todo = [e for e in chosen(asked.names) if due(e, known.get(e.name), asked.seeds)]
        if asked.check:
            for e in todo: say(f"{e.name} is due: python tools/predictions.py {e.name}")
            return bool(todo)
        if todo: refuse_other_images()
        # now, and not when they are run: a module may be edited in the meantime
        sources = [source_of(e) for e in todo]
    except InputError as e:
        print(f"predictions: {e}", file=sys.stderr)
        return 2
    for e, source in zip(todo, sources):
        try: measure(e, asked.seeds, source, file, say)
        except Exception as error:
            failed.append(e.name)
            print(f"predictions: {e.name}: {type(error).__name__}: {error}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try: sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt: sys.exit(130)
