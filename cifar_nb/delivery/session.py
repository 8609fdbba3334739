"""Plain module: some hours on somebody else's machine: where we are, a live picture of the
trainings, what an earlier session left, answers, scores and submissions. Tests:
tests/test_kaggle.py, chapter 64.
"""
import os
import re
import shutil
import sys
import time
from pathlib import Path

import torch

from ..core.errors import InputError, check_choice
from ..core.files import entries, is_empty, make_folder
from ..core.places import folders, input_folder, nearest_folder
from ..core.tables import Table
from ..data.competition import load_competition
from ..data.images import Images, look_for_course, mounted, working_folder
from ..data.pictures import TABLE
from ..evaluation.tta import check_views, mean_of_views, predict_views, write_submission
from ..models.resnet import LIMIT, count_parameters
from ..recipes.spec import Recipe
from ..teams.zoo import get_recipe, list_recipes
from ..training.checkpoints import Run, unfinished_net
from ..training.jobs import (is_run_of, live_curves, raise_for_status, share_done, status,
                             train_members)
from ..training.loop import loss_and_accuracy
from ..training.precision import choose_device, choose_precision, hardware
from ..training.runs import told

__all__ = ['surroundings', 'session_start', 'find_course', 'named_recipes', 'foretold',
           'choose_holdout', 'Live', 'copy_run', 'bring_back', 'opened', 'train_all', 'keeping',
           'unfinished', 'choose_views', 'answers', 'mean_of_members', 'scores', 'which', 'submit',
           'hand_in', 'one_sentence']

SESSION = 12 * 3600  # seconds that one on Kaggle lasts


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

def session_start(noted: float, process='/proc/1/stat', system='/proc/stat', say=print) -> float:
    """When the session began (as time.time(), s): on Kaggle when its first process did, by what
    Linux writes into the files `process` and `system`; else, and where that is longer ago than a
    session lasts, when it was `noted`."""
    if not os.environ.get('KAGGLE_KERNEL_RUN_TYPE'): return noted
    try:
        # the fields behind the name in brackets, in which there may be spaces; field 22 in all
        ticks = int(Path(process).read_text(encoding='utf-8').rpartition(')')[2].split()[19])
        boot = re.findall(r'^btime (\d+)', Path(system).read_text(encoding='utf-8'), re.M)[0]
        began = int(boot) + ticks / os.sysconf('SC_CLK_TCK')
    except (OSError, ValueError, IndexError, AttributeError): return noted
    if not 0 <= time.time() - began <= SESSION: return noted
    say(f'The session began {(time.time() - began) / 60:.0f} minutes ago: HOURS counts from there.')
    return began

def find_course(images: Images, named=None, say=print):
    """The course's unlabelled images (`Competition`) from the file `named`, or from the one that
    is found; None, loudly, where there is none, and where `images` are the toy set. What is passed
    over is said; `InputError` if only a damaged file of the usual name is here."""
    files, damaged, passed = ([Path(named)], [], []) if named else look_for_course()
    if damaged and not files and images.name != 'toy': raise InputError(damaged[0])
    for why in damaged + passed: say(f'passed over: {why}')
    if not files:
        say(_no_course())
        return None
    if len(files) > 1:
        say(f'ATTENTION: {len(files)} files hold images without labels: '
            f'{", ".join(map(str, files))}. The first is taken; name another one in COURSE.')
    if images.name == 'toy':
        say(f'{files[0]} is left alone: a network that has seen drawn shapes only cannot answer '
            'for it')
        return None
    return load_competition(files[0], say)

def _no_course() -> str:
    "What to do where no file of a course is here."
    public = nearest_folder(input_folder(), lambda folder: os.path.isfile(folder / TABLE))
    if public:
        return (f'ATTENTION: {public[1]} is the public competition cifar-10, whose test pictures '
                'are not answered: this notebook answers the pickle of a course, with ID,Labels. '
                'The answers will go to test_predictions.csv, which is no submission.')
    return (f"ATTENTION: no competition's test file is here ({input_folder()} holds {mounted()}). "
            'The answers will go to test_predictions.csv, which is no submission: add your '
            'competition with Add Input, or name its file in COURSE.')


def named_recipes(names, variant: str = 'report', say=print) -> list:
    """The recipes of `names`, one or several: recipes, NAME, or NAME:VARIANT. `variant` is for a
    NAME that has it; of another it is said that its report counts."""
    check_choice('VARIANT', variant.partition(':')[0], ('report', 'code'))
    def one(r):
        if isinstance(r, Recipe): return r
        name, colon, own = str(r).partition(':')
        has = [k.variant for k in list_recipes() if k.name == name]
        if colon or not has or variant.partition(':')[0] in has:
            return get_recipe(name, own if colon else variant)
        say(f'{name} has no variant {variant!r}: it is trained as {has[0]!r}.')
        return get_recipe(name, has[0])
    return [one(r) for r in ([names] if isinstance(names, (str, Recipe)) else names)]


def foretold(members: list, choice: str = 'auto') -> str:
    """A line for each of `members` with its parameters, and what will be submitted of several, as
    `choice` says."""
    counts = [count_parameters(m.recipe.net.build()) for m in members]
    lines = [f'{m.name}: {m.recipe.title}, {n:,} parameters' for m, n in zip(members, counts)]
    what, total = _which(choice, counts), sum(counts)
    if len(members) == 1: return lines[0]
    limit = 'over' if total > LIMIT else 'within'
    first = f'the first, {members[0].name}; the others show the spread'
    return '\n'.join([*lines, f'Together {total:,} parameters, {limit} the limit of {LIMIT:,}: '
                      f'submitted is {"their mean" if what == "mean" else first}.'])


def choose_holdout(n: int, given: int | None = None, say=print) -> int:
    """How many of `n` training images judge the epochs: `given`, or one in ten for None; what that
    means is said."""
    held = n // 10 if given is None else given
    if type(held) is not int or not 0 <= held < n:
        raise InputError(f'HOLDOUT = {given!r}: give a whole number below {n:,}, or None for one '
                         'image in ten.')
    say(f'{held:,} of {n:,} training images are held out: choose by the accuracy on them, not by '
        'that on the test images.' if held else
        f'The final run: all {n:,} training images are learned from, the last epoch counts.')
    return held


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
    attached = [r for f in folders(root or input_folder())
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


def train_all(members: list, devices: list, x: torch.Tensor, y: torch.Tensor,
              until: float | None = None, say=print, **settings) -> list:
    """Train as `train_members`, until the stop button at most. What is finished and what to do
    about the rest is said, and which member was refused; the others come back. `InputError` if
    there are none."""
    if until is not None and time.time() >= until:
        say('The hours are over; they count from the start of the session: set HOURS higher, where '
            'it lasts longer.')
    try: refused = train_members(members, devices, x, y, until=until, patient=True, **settings)[1]
    except KeyboardInterrupt: refused = [(m, e) for m in members for e in _broke_off(m)]
    lost = [m for m, _ in refused if not m.finished]
    others = [m for m in members if m not in lost]
    for m, why in refused if others else refused[1:]:
        say(f'ATTENTION: {m.name} was left out: {why}')
    if not others: raise refused[0][1] from None
    say(unfinished(others) or f'Finished: {", ".join(m.name for m in others)}')
    return others

def _broke_off(m) -> list:
    "Why the process of `m` ended before it was told to, in a list; nothing if it did not."
    try:
        # on Windows, 1 is the status of whoever is told to
        if m.process and (sys.platform, m.process.returncode) != ('win32', 1): raise_for_status(m)
        return []
    except InputError as e: return [e]


def keeping() -> str:
    "Where the files stay, and what to do where they do not, in a sentence."
    kind = os.environ.get('KAGGLE_KERNEL_RUN_TYPE')
    if kind == 'Interactive':
        return ('The files of an interactive session are gone when it ends: before that, download '
                'the folder runs, or choose Save Version, Quick Save with its output, or switch '
                'on Persistence: Files; add what you kept to the next session with Add Input. '
                'For a long training choose Save Version, Save & Run All.')
    if kind:
        return ('The files stay with this version of the notebook: add its output to the next '
                'session with Add Input.')
    if 'google.colab' in sys.modules:
        return ("Colab's files are gone with its runtime: before that, download the folder runs or "
                'copy it to your Drive, and put it back in its place to go on.')
    return 'The files stay where they are.'

def unfinished(members: list) -> str:
    "What to do about the members that are not finished; empty if all are."
    left = [f'{m.name} at epoch {len(m.log)} of {m.recipe.epochs}' for m in members
            if not m.finished]
    if not left: return ''
    return (f'Not finished: {", ".join(left)}. Everything is saved in {members[0].out.parent}. '
            f'{keeping()} To go on, run all again with these settings.')


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
    return _which(choice, [run.result['parameters'] for run in runs])

def _which(choice: str, counts: list) -> str:
    "As `which`, for members of so many parameters."
    check_choice('SUBMIT', choice, ('auto', 'mean', 'first'))
    if choice != 'auto': return choice
    return 'mean' if len(counts) > 1 and sum(counts) <= LIMIT else 'first'

def submit(runs: list, logits: list, ids: torch.Tensor, folder, choice: str = 'auto',
           say=print, stem: str = 'submission') -> Path:
    """Write `stem`-NAME.csv for each of `runs`, `stem`-mean.csv, and `stem`.csv for `choice`; its
    path."""
    labels = {run.path.name: l.argmax(1) for run, l in zip(runs, logits)}
    if len(runs) > 1: labels['mean'] = mean_of_members(logits).argmax(1)
    for name, l in labels.items():
        write_submission(Path(folder) / f'{stem}-{name}.csv', ids, l, overwrite=True)
    name, total = runs[0].path.name, sum(run.result['parameters'] for run in runs)
    mean = which(choice, runs) == 'mean' and len(runs) > 1
    path = write_submission(Path(folder) / f'{stem}.csv', ids, labels['mean' if mean else name],
                            overwrite=True)
    over = (f' (together the members have {total:,} parameters, over the limit of {LIMIT:,})'
            if total > LIMIT else '')
    say(f'{path}: {len(ids):,} rows from '
        f'{f"the mean of {len(runs)} members" if mean else name}{over}')
    return path


def hand_in(members: list, course, images: Images, views, device: str | None = None,
            choice: str = 'auto', folder=None, say=print) -> Path | None:
    """Write the answers of the finished `members` for the images of `course` (`Competition`):
    submission.csv, and a file each. Without a competition they are those for the test images, and
    the files are called test_predictions. If no member is finished, the checkpoint that is
    farthest answers in NAME-unfinished.csv. Its path; None where nothing was trained."""
    folder, stem = folder or working_folder(), 'submission' if course else 'test_predictions'
    ids, x = ((course.ids, course.images) if course
              else (torch.arange(len(images.xt)), images.xt))
    runs = [Run(m.out) for m in members if m.finished]
    if runs:
        path = submit(runs, answers(runs, x, views, device), ids, folder, choice, say, stem)
    else: path = _unfinished_answers(members, ids, x, views, device, Path(folder), stem, say)
    if path is None: return None
    if not course:
        say("ATTENTION: this is no submission. No competition's test file was found; these are "
            'answers for the test images.')
    if held := max((_held_out(m) for m in members), default=0):
        say(f'{held:,} training images were held out. Once you have chosen: HOLDOUT = 0, and run '
            'all again for the final answers.')
    return path


def _held_out(m) -> int:
    held = (m.manifest or {}).get('validation')
    return held['images'] if isinstance(held, dict) and type(held.get('images')) is int else 0


def _unfinished_answers(members, ids, x, views, device, folder, stem, say) -> Path | None:
    "Write what the checkpoint that is farthest answers."
    begun = [m for m in members if os.path.isfile(m.out / 'checkpoint.pt')]
    if not begun:
        say('Nothing is trained yet, so there are no answers: give it more HOURS.')
        return None
    m = max(begun, key=share_done)
    run = Run(m.out)
    logits = predict_views(unfinished_net(run, device), x, run.recipe.phases[-1], views)
    path = write_submission(folder / f'{stem}-unfinished.csv', ids, logits.argmax(1),
                            overwrite=True)
    say(f'ATTENTION: {path} comes from a training that is not finished ({m.name}, '
        f'{len(m.log)} of {m.recipe.epochs} epochs): its accuracy is lower than it will be.')
    return path


def one_sentence():
    "From now on a notebook shows an `InputError` without a traceback."
    InputError._render_traceback_ = lambda e: [f'{type(e).__name__}: {e}']
