"""Plain module: exercises that ask for a prediction before a training, and compare it
afterwards.

`recorded.json` beside this file is written by tools/predictions.py. Tests:
tests/test_predictions.py.
"""
import json
import math
from dataclasses import dataclass
from importlib import resources
from numbers import Real
from statistics import mean, stdev

import torch

from ..core.errors import InputError
from .checker import (Exercise, Verdict, Wrong, _exercises, find_exercise, is_stub,
                      remembered)

__all__ = ['Prediction', 'prediction', 'PredictionVerdict', 'judge_prediction',
           'compare_prediction', 'recorded_outcomes']


@dataclass(frozen=True)
class Prediction(Exercise):
    """An exercise that is a prediction: `look` is the experiment, a function of a seed that returns
    one number in `unit`; `why` says afterwards what is behind the outcome."""
    unit: str = 'points'
    why: str = ''
    answered_by = 'compare_prediction'


def prediction(name: str, title: str, *hints: str, unit: str, why: str, **marks):
    """Decorator that makes a function of `seed` the experiment of the exercise `name`: it trains
    for at most a minute and returns a number in `unit`."""
    def keep(run):
        _exercises[name] = Prediction(name, title, run, hints, unit=unit, why=why, **marks)
        return run
    return keep


def recorded_outcomes(name: str) -> dict | None:
    """What tools/predictions.py measured for the exercise `name`: `values` and `seconds` (one for
    each seed), `data`, `machine`, `threads`, `torch` and `kernels`; None where nothing is
    recorded."""
    file = resources.files('cifar_nb.exercises') / 'recorded.json'
    if not file.is_file(): return None
    return json.loads(file.read_text(encoding='utf-8')).get(name)


@dataclass(frozen=True, repr=False)
class PredictionVerdict(Verdict):
    "A prediction beside its outcome; `outcome` is None where nothing was predicted yet."
    guess: tuple = ()
    outcome: float | None = None


def _interval(guess) -> tuple:
    "The two numbers of `guess`, lower first; `Wrong` where it is no interval."
    if (not isinstance(guess, (tuple, list)) or len(guess) != 2
        or any(isinstance(g, bool) or not isinstance(g, Real) for g in guess)):
        raise Wrong(f'{guess!r} is no prediction: write two numbers, (low, high).')
    low, high = map(float, guess)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise Wrong('Both ends of the interval must be finite numbers.')
    if low > high: raise Wrong(f'The lower end, {low:g}, stands above the upper one, {high:g}.')
    return low, high


def _digits(v: float) -> str: return f'{v:.2f}' if abs(v) >= .1 else f'{v:.2g}'

def _recorded(r: dict) -> str:
    "The recorded outcomes in a sentence, with their number."
    values, where = r['values'], f'{r["data"]}, {r["machine"]}'
    if len(values) == 1: return f' Recorded: {_digits(values[0])} (one seed, {where}).'
    return (f' Recorded: {_digits(mean(values))} ± {_digits(stdev(values))} (mean and standard '
            f'deviation over {len(values)} seeds, {where}).')

def _sentence(exercise, guess, outcome) -> str:
    "Guess, outcome, what is recorded, and why."
    low, high = guess
    hit = ('inside' if low <= outcome <= high else 'above' if outcome > high else 'below')
    text = (f'You said {low:g} to {high:g} {exercise.unit}; this run gave {_digits(outcome)}, '
            f'{hit} your interval.')
    r = recorded_outcomes(exercise.name)
    return f'{text}{_recorded(r) if r else ""} {exercise.why}'.strip()


def _outcome(run, seed: int) -> float:
    "What the experiment gives; `Wrong` where it is no finite number."
    with torch.random.fork_rng(devices=()): outcome = run(seed)  # the reader's numbers go on
    try: value = float(outcome)
    except (TypeError, ValueError):
        raise Wrong(f'The experiment gave {outcome!r}, which is no number.') from None
    if not math.isfinite(value):
        raise Wrong(f'The experiment gave {value}, which is no outcome.')
    return value


def judge_prediction(name: str, guess, run=None, seed: int = 0) -> PredictionVerdict:
    """What `compare_prediction` says of the interval `guess`, without remembering anything; nothing
    is run before `guess` is an interval."""
    e = find_exercise(name)
    if not isinstance(e, Prediction):
        raise InputError(f'{name} is no prediction; its answer goes to `check`.')
    def verdict(state, message, **more):
        return PredictionVerdict(e.name, e.title, state, message, e.hints, **more)
    if is_stub(guess):
        return verdict('unsolved', 'Write your interval first; then run the cell again.')
    try: interval, outcome = _interval(guess), _outcome(run or e.look, seed)
    except Wrong as wrong: return verdict('wrong', str(wrong))
    return verdict('solved', _sentence(e, interval, outcome), guess=interval, outcome=outcome)


def compare_prediction(
    name: str,    # the exercise
    guess,        # (low, high): the interval in which you expect the outcome
    run=None,     # function of a seed that returns the outcome; default: the book's own
    seed: int = 0,
) -> PredictionVerdict:
    """Run the experiment of the exercise `name`, but only once `guess` is written down; show both,
    beside what the book has recorded, and remember that it was done."""
    verdict = judge_prediction(name, guess, run, seed)
    return remembered(verdict) if verdict.state == 'solved' else verdict
