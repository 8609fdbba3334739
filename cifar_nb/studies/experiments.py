"""Plain module: the one engine of the studies: what no record answers is trained, recorded and
told.

Tests: tests/test_experiments.py, tests/test_faults.py.
"""
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..core.errors import Diverged
from ..core.files import LOCK, locked, make_folder
from ..evaluation.records import find_trial, keep_trial, study_records
from ..training.signals import Interrupted

__all__ = ['Experiment', 'carry_out']


class Experiment(NamedTuple):
    "One training of a study, done or not."
    told: str        # which one, in the words of the study: 'SiLU for GELU, seed 1'
    manifest: dict   # of `planned`, as it would be trained here
    train: Callable  # called without arguments: its record, ready for JSON
    words: tuple     # of the record's file, for people
    asked: dict = {}  # what a record must agree in besides
    own: dict = {}   # what the study calls it today, whatever the record says


def carry_out(experiments: list, folder, figures: Callable, say=print) -> list:
    """The records of `experiments`; those that `folder` holds are read, the others trained and
    kept.

    `figures(record)` is what is said of one that was trained. One that diverges has no record. An
    interruption keeps what is finished; `InputError` while another process works in `folder`."""
    folder, out = make_folder(Path(folder)), []
    busy = (f'another process trains for {folder}: wait until it ends, or choose another folder '
            'with --results.')
    with locked(folder / LOCK, busy):
        known = study_records(folder, say)
        for e in experiments:
            r = find_trial(known, e.manifest, **e.asked)
            if r is None:
                try: r = e.train()
                except Interrupted as stop:
                    raise Interrupted(f'stopped at {e.told}; what is finished is kept, and the '
                                      'same command goes on', stop.signum) from None
                except Diverged as why:
                    say(f'{e.told}: no figure. {why}')
                    continue
                r = keep_trial(folder, r, *e.words, also=tuple(e.asked))
                say(f'{e.told}: {figures(r)}')
            out.append(r | e.own)
    return out
