"""Plain module: exercises that check themselves, and the memory of those that are solved.

Tests: tests/test_exercises.py, tests/test_memory.py, tests/test_predictions.py, chapter 68.
"""
import dataclasses
import dis
import html
import importlib
import inspect
import os
import random
import re
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..core.errors import InputError
from ..core.places import expanded
from .memory import change, recall

__all__ = ['CHAPTERS', 'Wrong', 'Exercise', 'exercise', 'is_stub', 'Verdict', 'load_exercises',
           'find_exercise', 'judge', 'whole', 'same', 'current_name', 'progress_file',
           'read_progress', 'remember_verdict', 'remembered', 'check', 'Progress', 'progress',
           'prove']


# the chapters with exercises, in the order of the book; each has a module of its name here
CHAPTERS = (
    'start data loop convolution batch_norm resnet optimizers regularization augment colour '
    'geometry policies preview evaluation calibration inside tta competition reading '
    'narrow_resnet modified_resnet learning_too_deep dreamfire neural_nomads scoreboard '
    'budgets ablations search throughput speed im2col winograd fused_norm muon airbench '
    'laptop record corruptions recipes training parallel pretrained session reproduce kaggle '
    'cli symptoms').split()
# chapters whose exercises were called by a number before (`01.2` is `data.2`)
NUMBERED = dict(zip(
    '01 02 02a 02b 02c 02d 03 03a 03b 04 04a 04b 04c 05 05a 06 07 07a 07b 08 10 11 12 13 14'
    .split(),
    'data augment colour geometry policies speed preview im2col winograd resnet airbench muon '
    'fused_norm recipes parallel training evaluation calibration inside tta narrow_resnet '
    'modified_resnet learning_too_deep dreamfire neural_nomads'.split()))


class Wrong(Exception):
    "What is wrong with an answer, in a sentence that does not give the answer away."

@dataclass(frozen=True)
class Exercise:
    """An exercise: its name (chapter, dot, number), its title, its check, which raises `Wrong`, and
    its hints, mildest first; how hard and how important it is (1 to 5), how many minutes it takes,
    and whether it is one more than the chapter needs."""
    name: str
    title: str
    look: object
    hints: tuple = ()
    difficulty: int = 2
    importance: int = 3
    minutes: int = 10
    extra: bool = False
    answered_by = 'check'

    @property
    def marks(self) -> str:
        "The marks as the chapter prints them: 'difficulty 2, importance 3, 10 minutes'."
        return (f'difficulty {self.difficulty}, importance {self.importance}, {self.minutes} '
                f'minutes{", extra" if self.extra else ""}')

_exercises = {}

def exercise(name: str, title: str, *hints: str, **marks):
    """Decorator that makes a function of an answer the check of the exercise `name`; `marks` are
    `difficulty`, `importance`, `minutes` and `extra`."""
    def keep(look):
        _exercises[name] = Exercise(name, title, look, hints, **marks)
        return look
    return keep


def is_stub(answer) -> bool:
    """Whether nothing has been filled in: `None`, `...`, or a function or a class whose body does
    nothing."""
    if answer is None or answer is ...: return True
    if isinstance(answer, (tuple, list)): return len(answer) > 0 and all(map(is_stub, answer))
    if isinstance(answer, type):
        named = [name for name in vars(answer) if not name.startswith('__')]
        return all(map(is_stub, _functions(answer))) if _functions(answer) else not named
    return bool(_functions(answer)) and all(map(_idle, _functions(answer)))

def _functions(answer) -> list:
    """The functions that `answer` is or is made of: itself, or the methods that its class body
    writes."""
    if isinstance(answer, (tuple, list)): return [f for a in answer for f in _functions(a)]
    if not isinstance(answer, type):
        return [f for f in [inspect.unwrap(answer)] if hasattr(f, '__code__')]
    functions = [inspect.unwrap(f) for f in vars(answer).values() if inspect.isfunction(f)]
    return [f for f in functions
            if f.__code__.co_filename not in ('<string>', dataclasses.__file__)]

def _idle(function) -> bool:
    steps = [i for i in dis.get_instructions(function)
             if i.opname not in ('RESUME', 'NOP', 'RETURN_VALUE', 'PRECALL', 'CACHE')]
    return all(i.opname in ('LOAD_CONST', 'RETURN_CONST') and i.argval in (None, ...)
               for i in steps)


@dataclass(frozen=True)
class Verdict:
    "What a check found: `state` is 'unsolved', 'wrong' or 'solved'."
    name: str
    title: str
    state: str
    message: str
    hints: tuple = ()

    def __repr__(self): return f'{self.name} {self.title}: {self.state}. {self.message}'.strip()
    def _repr_html_(self):
        mark = dict(unsolved='&#9675;', wrong='&#10007;', solved='&#10003;')[self.state]
        hints = '' if self.state == 'solved' else ''.join(
            f'<details><summary>Hint {i}</summary>{_as_html(h)}</details>' for i, h in enumerate(
                self.hints, 1))
        return (f'<p><b>{mark} {self.name} {_as_html(self.title)}: {self.state}.</b> '
                f'{_as_html(self.message)}</p>{hints}')

def _as_html(text): return re.sub('`([^`]+)`', r'<code>\1</code>', html.escape(text))


def load_exercises(chapter: str = ''):
    "Import the checks of `chapter` ('data', 'resnet'), or of all chapters."
    for name in CHAPTERS:
        if chapter in ('', name): importlib.import_module(f'cifar_nb.exercises.{name}')

def current_name(name: str) -> str:
    "`name` with the chapter's name in place of the number that it had once."
    chapter, _, number = name.rpartition('.')
    return f'{NUMBERED[chapter]}.{number}' if chapter in NUMBERED else name

def find_exercise(name: str) -> Exercise:
    """The exercise `name` (`data.2`; `01.2`, as it was called once, is found as well), from the
    chapter's module in `cifar_nb.exercises`; `KeyError` names those that exist."""
    name = current_name(name)
    if name not in _exercises: load_exercises(name.split('.')[0])
    if name not in _exercises:
        raise KeyError(f'There is no exercise {name!r}; known are '
                       f'{", ".join(sorted(_exercises)) or "none"}.')
    return _exercises[name]

def judge(name: str, answer) -> Verdict:
    """Look at `answer` to the exercise `name` and say what was found; remembers nothing and never
    raises for a wrong answer."""
    e = find_exercise(name)
    def verdict(state, message): return Verdict(e.name, e.title, state, message, e.hints)
    if is_stub(answer): return verdict('unsolved', 'Fill in the cell and run it again.')
    if e.answered_by != 'check':
        return verdict('wrong', f'This is a prediction: give your interval to `{e.answered_by}`.')
    try:
        with _seeded(): e.look(answer)
    except Wrong as wrong: return verdict('wrong', str(wrong))
    except Exception as error:
        if type(error) is NotImplementedError and not str(error):
            return verdict('unsolved', 'It still says NotImplementedError.')
        return verdict('wrong', _stumble(answer, error))
    return verdict('solved', 'Well done.')

@contextmanager
def _seeded():
    "The random numbers of torch (CPU), NumPy and Python begin anew, and later go on as before."
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(0)
            random.seed(0)
            np.random.seed(0)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])

def _stumble(answer, error) -> str:
    "The sentence for an answer that raises: what, and in which of its lines."
    files = {f.__code__.co_filename for f in _functions(answer)}
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    why = (str(error).strip().splitlines() or [''])[0].rstrip('.')
    return (f'It stops with {type(error).__name__}' + (f': {why}' if why else '')
            + (f' (line {lines[-1]} of the cell).' if lines else '.'))


def whole(value):
    """`value` as an int where it is a whole number of Python, NumPy or torch (`3.0` is one, True is
    not), else None."""
    if getattr(value, 'shape', None) == (): value = value.item()
    if isinstance(value, float) and value.is_integer(): return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def same(got, want, what: str = 'the result', atol: float = 1e-5):
    """Raise `Wrong` unless `got` is `want`: same kind, shape and dtype, and values within `atol`;
    the message keeps the right values to itself."""
    def wrong(why): raise Wrong(f'{what[:1].upper()}{what[1:]} {why}.')
    if got is None and want is not None: wrong('is None; does your function `return` it?')
    if isinstance(want, (bool, str, int, float)) and getattr(got, 'shape', None) in ((), (1,)):
        got = got.item()
    if isinstance(want, torch.Tensor): return _same_tensor(got, want, wrong, atol)
    if isinstance(want, bool) or isinstance(want, str):
        if type(got) is not type(want):
            wrong(f'is of type {type(got).__name__} instead of {type(want).__name__}')
        if got != want: wrong(f'is {got!r}, which is not right')
    elif isinstance(want, (int, float)):
        if isinstance(got, bool) or not isinstance(got, (int, float)):
            wrong(f'is of type {type(got).__name__}; a number is asked for')
        if got != got: wrong('is nan, which comes of 0 / 0, of 0 * log(0) or of infinities')
        if not abs(got - want) <= max(atol, 1e-6 * abs(want)):
            wrong(f'is {got:.6g}, which is too {"large" if got > want else "small"}')
    else: _same_items(got, want, what, atol, wrong)

def _same_tensor(got, want, wrong, atol):
    if not isinstance(got, torch.Tensor):
        wrong(f'is of type {type(got).__name__}; a tensor is asked for')
    if got.shape != want.shape:
        wrong(f'has shape {tuple(got.shape)}; {tuple(want.shape)} is asked for')
    if got.dtype != want.dtype: wrong(f'is {got.dtype}; {want.dtype} is asked for')
    off = ~torch.isclose(got.double(), want.double(), rtol=1e-5, atol=atol, equal_nan=True)
    if off.any():
        wrong(f'has the right shape, but {int(off.sum()):,} of {off.numel():,} values differ, the '
              f'first at {off.nonzero()[0].tolist()}')

def _same_items(got, want, what, atol, wrong):
    if isinstance(want, dict):
        if not isinstance(got, dict): wrong(f'is of type {type(got).__name__}; a dict is asked for')
        if set(got) != set(want):
            wrong(f'has {len(set(got) - set(want))} keys too many and {len(set(want) - set(got))} '
                  'too few')
        for k in want: same(got[k], want[k], f'{what} at {k!r}', atol)
    elif isinstance(want, (tuple, list)):
        if not isinstance(got, (tuple, list)):
            wrong(f'is of type {type(got).__name__}; a {type(want).__name__} is asked for')
        if len(got) != len(want): wrong(f'has {len(got)} items; {len(want)} are asked for')
        for i, (g, w) in enumerate(zip(got, want)): same(g, w, f'{what}, item {i},', atol)
    elif got != want: wrong('is not right')


def progress_file() -> Path:
    "Where the memory lies: `$CIFAR_NB_PROGRESS`, or /kaggle/working, or the home folder."
    if named := os.environ.get('CIFAR_NB_PROGRESS'): return expanded(named)
    kaggle = Path('/kaggle/working')
    return (kaggle / 'cifar_nb_progress.json'
            if kaggle.is_dir() else expanded('~/.cifar_nb/progress.json'))

def read_progress() -> dict:
    """What is remembered: 'wrong' or 'solved' by exercise; `InputError` where the file cannot be
    read."""
    return {name: state for name, state in _renamed(recall(progress_file())).items()
            if state in ('wrong', 'solved')}

def _renamed(states: dict) -> dict:
    "`states` with today's names of the exercises; solved under either name is solved."
    new = {}
    for name, state in ((current_name(name), state) for name, state in states.items()):
        if new.get(name) != 'solved' and (state in ('wrong', 'solved') or name not in new):
            new[name] = state
    return new

def remember_verdict(verdict: Verdict):
    "Write the verdict down, unless nothing was attempted or the exercise had been solved before."
    def add(states):
        states, name = _renamed(states), current_name(verdict.name)
        solved = states.get(name) == 'solved'
        return states if solved else states | {name: verdict.state}
    if verdict.state != 'unsolved': change(progress_file(), add)


def check(name: str, answer) -> Verdict:
    "Judge `answer` to the exercise `name`, remember it, and show what was found."
    return remembered(judge(name, answer))

def remembered(verdict: Verdict) -> Verdict:
    "`verdict`, written down; a sentence where that cannot be."
    try: remember_verdict(verdict)
    except InputError as e: _no_memory(e)
    return verdict

def _no_memory(error):
    print(f'There is no memory of what is solved: {str(error).rstrip(".")}. '
          'Set CIFAR_NB_PROGRESS to a file that can be written.')


class Progress(dict):
    """The state of every exercise, 'new', 'wrong' or 'solved', by name; prints as a table, a
    chapter a line."""
    @property
    def solved(self) -> int: return sum(state == 'solved' for state in self.values())
    def chapters(self) -> dict:
        rows = {}
        for name, state in self.items():
            rows.setdefault(name.split('.')[0], []).append(
                dict(new='.', wrong='x', solved='o')[state])
        return rows
    def __repr__(self):
        lines = [f'{chapter:19}{"".join(marks):10}{marks.count("o")} of {len(marks)}'
                 for chapter, marks in self.chapters().items()]
        return '\n'.join([f'{self.solved} of {len(self)} exercises solved   (o solved, x tried, . '
                          'not begun)', *lines])

def progress() -> Progress:
    "Every exercise of the book with its remembered state."
    load_exercises()
    try: states = read_progress()
    except InputError as e: states = _no_memory(e) or {}
    def place(name):
        chapter, number = name.split('.')
        return CHAPTERS.index(chapter) if chapter in CHAPTERS else -1, int(number)
    return Progress({name: states.get(name, 'new') for name in sorted(_exercises, key=place)})


def prove(name: str, right, *wrong) -> Verdict:
    """Assert that the check of `name` takes `right` for solved, each of `wrong` for wrong, and
    nothing for unsolved; give the verdict on the first mistake."""
    assert wrong, f'{name}: show at least one mistake that the check finds.'
    verdict = judge(name, right)
    assert verdict.state == 'solved', f'{name}: the solution is called {verdict!r}'
    for w in wrong:
        assert judge(name, w).state == 'wrong', f'{name}: a mistake is called {judge(name, w)!r}'
    assert judge(name, None).state == judge(name, ...).state == 'unsolved'
    return judge(name, wrong[0])
