"""Plain module: some hours on somebody else's machine: where we are, a live picture of the
trainings, what an earlier session left, answers, scores and submissions. Tests:
tests/test_kaggle.py, chapter 39.
"""
import os
import shutil
from pathlib import Path

import torch

from ..core.errors import InputError, check_choice
from ..core.files import entries, is_empty, make_folder
from ..core.places import folders
from ..core.tables import Table
from ..data.images import DEPTH, input_folder, mounted, working_folder
from ..evaluation.tta import check_views, mean_of_views, predict_views, write_submission
from ..models.resnet import LIMIT, count_macs, count_parameters, summary
from ..training.checkpoints import Run
from ..training.jobs import is_run_of, live_curves, status
from ..training.loop import loss_and_accuracy
from ..training.precision import choose_device, choose_precision, hardware
from ..training.runs import told

__all__ = ['surroundings', 'describe_network', 'Live', 'copy_run', 'bring_back', 'opened',
           'unfinished', 'choose_views', 'answers', 'mean_of_members', 'scores', 'which', 'submit',
           'one_sentence']


def surroundings(devices) -> str:
    """A line each on the place, the input, the output, and the `devices` with the number format
    that training will use."""
    kind = os.environ.get('KAGGLE_KERNEL_RUN_TYPE')
    lines = [('place', f'Kaggle, {kind}' if kind else 'not on Kaggle'),
             ('input', f'{input_folder()}: {mounted()}'),
             ('output', f'{working_folder()}'), ('torch', f'{torch.__version__}, {os.cpu_count()} '
                                                 'processors')]
    for name in dict.fromkeys(devices):
        precision = choose_precision(choose_device(name))
        lines.append((name, f'{hardware(name)}: {precision.name} ({precision.reason})'))
    return '\n'.join(f'{k:9}{v}' for k, v in lines)

def describe_network(net):
    "torchinfo's table of `net`, or one line where torchinfo is not installed."
    try: return summary(net)
    except InputError: pass  # no torchinfo
    return (f'{type(net).__name__}: {count_parameters(net):,} parameters, {count_macs(net):,} '
            'multiply-adds an image')


class Live:
    """For `show` of `train_members`: in a notebook, status and curves redrawn in place; elsewhere
    nothing."""
    def __init__(self): self.text = self.figure = None; self.epochs = 0

    def __call__(self, members: list):
        try: from IPython import display, get_ipython
        except ImportError: return
        if get_ipython() is None: return
        text, epochs = {'text/plain': status(members)}, sum(len(m.log) for m in members)
        if self.text is None:
            self.text = display.display(text, raw=True, display_id=True)
            self.figure = display.display(live_curves(members), display_id=True)
        else: self.text.update(text, raw=True)
        if epochs > self.epochs: self.figure.update(live_curves(members))
        self.epochs = epochs


def copy_run(run: Path, out: Path):
    "Copy the files of the folder `run` to `out`, all or none."
    part = out.with_name(f'.{out.name}.part')
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a copy that was stopped
        for f in [*entries(run), *entries(run / 'evaluations')]:
            if f.is_file() and not f.name.startswith('.'):
                make_folder((part / f.relative_to(run)).parent)
                shutil.copyfile(f, part / f.relative_to(run))
        if is_empty(out): shutil.rmtree(out, ignore_errors=True)
        os.replace(part, out)
    except OSError as e:
        raise InputError(
            f'{out} cannot be written ({e.strerror}): free some space in {out.parent}.') from None
    finally: shutil.rmtree(part, ignore_errors=True)


def bring_back(members: list, root=None, say=print):
    """Copy from the input what was done for `members` (`identified`); if nothing there is theirs,
    an unfinished run is an `InputError`."""
    attached = [r for f in folders(root or input_folder(), DEPTH)
                if os.path.isfile(f / 'recipe.json')
                and os.path.isfile(f / 'log.jsonl') for r in opened(f, say)]
    attached.sort(key=lambda run: (run.finished, len(run.log)))
    for m in members:
        same = [r for r in attached if is_run_of(r.path, m.manifest)]
        if same and not m.begun:
            copy_run(same[-1].path, m.out)
            (say(f'{m.name}: {len(m.log)} of {m.recipe.epochs} epochs are done, from '
                 f'{same[-1].path}'))
    other = [run for run in attached if not run.finished]
    if other and not any(m.begun for m in members): _refuse(other[-1])

def opened(folder, say=print) -> list:
    "The run in `folder` in a list; nothing, and `say` is told, where it is damaged."
    try:
        run = Run(folder)
        run.log, run.manifest
        return [run]
    except InputError as e: say(f'passed over: {e}'); return []

def _refuse(run: Run):
    "Say that `run` is not what the settings ask for."
    r, m = run.recipe, run.manifest
    raise InputError(f'{run.path} is an unfinished run of {r.name} ({told(m)}), which the settings '
                     'do not ask for: set RECIPES, EPOCHS, SEEDS, HOLDOUT and PRECISION as they '
                     'were, or RESUME = False to begin anew.')


def unfinished(members: list) -> str:
    "What to do about the members that are not finished; empty if all are."
    left = [f'{m.name} at epoch {len(m.log)} of {m.recipe.epochs}' for m in members
            if not m.finished]
    if not left: return ''
    return (f'Not finished: {", ".join(left)}. Everything is saved in {members[0].out.parent}: '
            'keep this version of the notebook, add its output to the next session with Add Input, '
            'and run all again with these settings.')


def choose_views(recipe, views=None) -> tuple:
    """The views to average: `views`, or those of `recipe` if it has several, or the image and its
    mirror image."""
    return check_views(
        views
        or (recipe.tta_transforms if len(recipe.tta_transforms) > 1 else ('identity', 'flip')))

def answers(runs: list, x: torch.Tensor, views=('identity',), device: str | None = None) -> list:
    "For each of `runs` its logits for `x` (float32 `N,10`), averaged over `views`."
    return [predict_views(run.load_net(device), x, run.recipe.phases[-1], views) for run in runs]

def mean_of_members(logits: list) -> torch.Tensor:
    "The logarithm of the mean of the members' probabilities, float32 `N,classes`."
    return mean_of_views(torch.stack(logits), mean='probabilities')

def scores(runs: list, y: torch.Tensor, **logits) -> Table:
    """A row for each run and one for their mean: parameters, and the accuracy of each list of
    logits, under its name."""
    rows = [(run.path.name, run.result['parameters'], [v[i] for v in logits.values()])
            for i, run in enumerate(runs)]
    if len(runs) > 1:
        rows.append(
            (f'mean of the {len(runs)}', sum(n for _, n, _ in rows),
             [mean_of_members(v) for v in logits.values()]))
    heads = [k.replace('_', ' ') for k in logits]
    def percent(l): return f'{loss_and_accuracy(l, y)[1]:.2f}%'
    return Table({'': name, 'parameters': f'{n:,}', **dict(zip(heads, map(percent, ls)))}
                 for name, n, ls in rows)


def which(choice: str, runs: list) -> str:
    """'mean' or 'first', as `choice` says; 'auto' is the mean of several with at most `LIMIT`
    parameters together."""
    check_choice('SUBMIT', choice, ('auto', 'mean', 'first'))
    if choice != 'auto': return choice
    return ('mean' if len(runs) > 1
            and sum(run.result['parameters'] for run in runs) <= LIMIT else 'first')

def submit(runs: list, logits: list, ids: torch.Tensor, folder, choice: str = 'auto',
           say=print) -> Path:
    """Write submission-NAME.csv for each of `runs`, submission-mean.csv, and submission.csv for
    `choice`; its path."""
    labels = {run.path.name: l.argmax(1) for run, l in zip(runs, logits)}
    if len(runs) > 1: labels['mean'] = mean_of_members(logits).argmax(1)
    for name, l in labels.items():
        write_submission(Path(folder) / f'submission-{name}.csv', ids, l, overwrite=True)
    name, total = runs[0].path.name, sum(run.result['parameters'] for run in runs)
    mean = which(choice, runs) == 'mean' and len(runs) > 1
    path = write_submission(Path(folder) / 'submission.csv', ids, labels['mean' if mean else name],
                            overwrite=True)
    over = (f' (together the members have {total:,} parameters, over the limit of {LIMIT:,})'
            if total > LIMIT else '')
    say(f'{path}: {len(ids):,} rows from '
        f'{f"the mean of {len(runs)} members" if mean else name}{over}')
    return path


def one_sentence():
    "From now on a notebook shows an `InputError` without a traceback."
    InputError._render_traceback_ = lambda e: [f'{type(e).__name__}: {e}']
