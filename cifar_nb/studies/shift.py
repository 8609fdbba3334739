"""Plain module: which trainings keep their accuracy on corrupted images, and `cifar_nb shift`.

Tests: tests/test_shift.py, chapter 50.
"""
from pathlib import Path

from ..augment.colour import ColorJitter, GaussianBlur
from ..augment.ops import Cutout, RandomErasing, Resize
from ..augment.policies import AugMix, AutoAugment, TrivialAugmentWide
from ..core.errors import InputError, check_choice
from ..core.plotting import ACCENT, GREY, STAGES
from ..core.tables import Table
from ..data.cifar import load, split
from ..evaluation.answers import keep_figures
from ..evaluation.corruptions import CORRUPTIONS, corruption_accuracy, survey
from ..recipes.spec import Recipe
from ..recipes.vary import vary
from ..teams.zoo import get_recipe
from ..training.loop import network
from ..training.train import describe_images, machine, planned, train
from .experiments import Experiment, carry_out
from .networks import asked_networks

__all__ = ['TRAININGS', 'trained_with', 'train_and_survey', 'what_of', 'run_trainings',
           'trainings_table', 'show_trainings', 'command_shift']


TRAININGS = {
    'as it is': (), 'jitter': (ColorJitter(.3, .3, .3, .1),), 'cutout': (Cutout(16),),
    'erasing': (RandomErasing(.5),), 'blur': (GaussianBlur(),),
    'AutoAugment': (AutoAugment(),), 'TrivialAugment': (TrivialAugmentWide(),),
    'AugMix': (AugMix(),), 'a first layer that learns': dict(whitened=False)}

def trained_with(new, recipe: Recipe = None) -> Recipe:
    """`recipe` (default: quick) with what is `new`: operations, to come before its images are made
    smaller, or fields of its network."""
    recipe = recipe or get_recipe('quick')
    if isinstance(new, dict): return vary(recipe, **new)
    def smaller(op): return isinstance(op, Resize)
    def augment(p):
        return (*(op for op in p.augment if not smaller(op)), *new, *filter(smaller, p.augment))
    return vary(recipe, augment=augment)


def train_and_survey(name: str, x, y, seed: int = 0, held: int = 2000, recipe: Recipe = None,
                     device: str | None = None, **what) -> dict:
    """Train with the change `TRAININGS[name]` on `x`, `y` less `held` images, and survey those; a
    record, ready for JSON. `what` goes to `survey`."""
    check_choice('training', name, tuple(TRAININGS))
    recipe, (_, out) = trained_with(TRAININGS[name], recipe), split(y, held)
    t = train(recipe, x, y, seed=seed, holdout=held, keep='last', kernels=False, device=device,
              progress=False, say=lambda s: None)
    return dict(manifest=t.manifest, variation=name, asked=what_of(what),
                seconds=round(sum(line['seconds'] for line in t.timing), 1), **machine(t),
                survey=survey(network(t), x[out], y[out], t.phase, **what))

def what_of(what: dict) -> dict:
    "The arguments `what` of `survey`, spelled out: which corruptions, severities and seed."
    full = dict(names=tuple(CORRUPTIONS), severities=(1, 2, 3, 4, 5), seed=0) | what
    return {k: list(v) if isinstance(v, (tuple, list)) else v for k, v in full.items()}

def run_trainings(x, y, folder='results', seeds: int = 1, names=tuple(TRAININGS), held: int = 2000,
                  recipe: Recipe = None, say=print, device: str | None = None, **what) -> list:
    """The records of all trainings; those that `folder`/shift holds are read, the others made, with
    PyTorch's own layers, and kept. `what` goes to `survey`."""
    if seeds < 1: raise InputError(f'--seeds {seeds}: give 1 or more.')
    data, settings = (describe_images(x, y),
                      dict(device=device, holdout=held, keep='last', kernels=False))
    def experiment(name, seed):
        return Experiment(
            f'{name}, seed {seed}', planned(
                trained_with(TRAININGS[name], recipe), x, y, seed=seed, data=data, **settings),
            lambda: train_and_survey(name, x, y, seed, held, recipe, device, **what),
            ('training', name), asked=dict(asked=what_of(what)))
    def figures(r):
        under = corruption_accuracy(r['survey'])['corrupted']
        return (f"{r['survey']['clean']:.2f}% clean, {under:.2f}% corrupted, "
                f"{r['seconds']:.0f} s of training")
    return carry_out([experiment(n, seed) for seed in range(seeds) for n in names],
                     Path(folder) / 'shift', figures, say)

def trainings_table(records) -> Table:
    "A row for each training: seeds, and the means of `corruption_accuracy` over them."
    rows = []
    for name in [n for n in TRAININGS if any(r['variation'] == n for r in records)]:
        each = [corruption_accuracy(r['survey']) for r in records if r['variation'] == name]
        rows.append(
            {'quick with': name, 'runs': len(each),
             **{k: f'{sum(e[k] for e in each) / len(each):.1f}' for k in each[0]
                if each[0][k] is not None}})
    return Table(rows)


def show_trainings(records):
    """The accuracy of each training on corrupted images against that on clean ones, a point for
    each seed and a line to their mean, as a Figure."""
    import matplotlib.pyplot as plt
    fig, ax = plt.subplots(figsize=(6, 3.6), layout='constrained')
    for name in [n for n in TRAININGS if any(r['variation'] == n for r in records)]:
        points = [(k['clean'], k['corrupted'])
                  for k in (corruption_accuracy(r['survey'])
                            for r in records if r['variation'] == name)]
        middle = [sum(p) / len(p) for p in zip(*points)]
        color = (GREY if name == 'as it is' else ACCENT
                 if isinstance(TRAININGS[name], dict) else STAGES[2])
        for p in points: ax.plot(*zip(p, middle), '.-', color=color, lw=.8)
        ax.annotate(name, max(points), (6, 0), textcoords='offset points', va='center', fontsize=9)
    ax.set(xlabel='accuracy on clean images (%)', ylabel='mean over all corruptions (%)')
    ax.margins(.14)
    ax.spines[['top', 'right']].set_visible(False)
    plt.close(fig)
    return fig


def command_shift(names=(), trainings: bool = False, seeds: int = 1, results=None,
                  data: str | None = None,
                  device: str | None = None, images: int | None = None, say=print):
    """What `cifar_nb shift` does: survey runs or published networks on corrupted test images, or
    with `trainings` train and survey those of `TRAININGS`; kept in `results`/shift if that is
    given."""
    if trainings:
        if names or images is not None:
            raise InputError('shift: --trainings trains its own networks on all images: leave the '
                             'runs and --images out.')
        x, y = load('train', data, say=say)
        if len(y) != 50_000:
            raise InputError(f'shift: --trainings compares on CIFAR-10, and there are {len(y):,} '
                             'training images: name its folder with --data.')
        records = run_trainings(x, y, results or 'results', seeds, say=say, device=device)
        return say(f'{trainings_table(records)}')
    opened, x, y, folder = asked_networks('shift', names, results, data, images, say,
                                          ', or say --trainings')
    rows = []
    for name, run in opened.items():
        s = survey(run.load_net(device), x, y, run.recipe.phases[-1])
        rows.append({'network': name, **corruption_accuracy(s)})
        if folder:
            keep_figures(folder, name, run, x, y, device, dict(corruptions=sorted(CORRUPTIONS)),
                         survey=s)
    say(f'{Table(rows)}\n{len(y):,} images, corrupted in {len(CORRUPTIONS)} ways and five '
        'severities')
