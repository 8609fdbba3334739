"""Plain module: published networks side by side, their confidence and what test-time augmentation
gains them, and `cifar_nb tta`.

Tests: tests/test_networks.py, chapters 08a and 09.
"""
from pathlib import Path

from ..core.errors import InputError
from ..core.files import writable_folder
from ..core.tables import Table
from ..data.cifar import load
from ..evaluation.answers import SETS, answer_figures, keep_figures
from ..evaluation.pretrained import open_network, registry
from ..evaluation.tta import VIEW_SETS

__all__ = ['answers_table', 'show_calibrations', 'show_tta', 'asked_networks', 'command_tta']


def answers_table(figures: dict) -> Table:
    """A row for each network of `figures` (name to `answer_figures`): accuracy, mean confidence,
    ECE beside what chance explains, and what each of `SETS` gains."""
    def gain(f, s): return '{:+.2f} ± {:.2f}'.format(*f['gains'][s])
    return Table({'network': name, 'accuracy': f"{f['accuracy']:.2f}%",
                  'confidence': f"{f['confidence']:.1f}%",
                  'ECE': f"{f['ece']:.1f}", 'by chance': f"{f['by_chance']:.1f}",
                  **{f'{s}, points': gain(f, s) for s in SETS}} for name, f in figures.items())


def show_calibrations(figures: dict):
    """Accuracy against confidence, bin by bin, of each network of `figures`, as a Figure; bins of
    fewer than ten answers are left out."""
    import matplotlib.pyplot as plt
    rows = -(-len(figures) // 4)
    fig, axes = plt.subplots(rows, min(4, len(figures)), figsize=(9.2, 2.5 * rows), sharex=True,
                             sharey=True, squeeze=False, layout='constrained')
    for ax in axes.flat[len(figures):]: ax.axis('off')
    for ax, (name, f) in zip(axes.flat, figures.items()):
        n, confidence, accuracy = f['bins']
        size = [100 * k / sum(n) for k in n]
        above = [c > a for c, a in zip(confidence, accuracy)]
        for over, color, mark, word in ((True, '#D55E00', 'v', 'overconfident'),
                                        (False, '#0072B2', '^', 'underconfident')):
            i = [k for k in range(len(n)) if n[k] >= 10 and above[k] == over]
            ax.scatter([confidence[k] for k in i], [accuracy[k] for k in i],
                       [6 + 2 * size[k] for k in i], color=color, marker=mark, label=word,
                       clip_on=False)
        ax.plot([0, 1], [0, 1], '--', color='#555', lw=1)
        ax.set_title(f'{name}\nECE {f["ece"]:.1f} points', fontsize=9)
        ax.set(xlim=(0, 1), ylim=(0, 1))
        ax.spines[['top', 'right']].set_visible(False)
    for ax in axes[-1]: ax.set_xlabel('confidence')
    for ax in axes[:, 0]: ax.set_ylabel('accuracy')
    axes[0, 0].legend(frameon=False, fontsize=9, loc='lower right', handletextpad=.1)
    plt.close(fig)
    return fig


def show_tta(figures: dict):
    "What each of `SETS` gains each network of `figures`, with standard errors, as a Figure."
    import matplotlib.pyplot as plt
    fig, ax = plt.subplots(figsize=(7, .5 * len(figures) + .9), layout='constrained')
    colors, marks = ('#0072B2', '#009E73', '#D55E00'), 'os^'
    for k, s in enumerate(SETS):
        gains = [f['gains'][s] for f in figures.values()]
        ax.errorbar([g for g, _ in gains], [i + .22 * (1 - k) for i in range(len(gains))],
                    xerr=[e for _, e in gains], fmt=marks[k], color=colors[k], ms=5, lw=1,
                    label=f'{s}: {len(VIEW_SETS[s])} transforms')
    ax.axvline(0, color='#555', lw=.8)
    ax.set_yticks(range(len(figures)),
                  [f'{n}, {f["accuracy"]:.1f}%' for n, f in figures.items()])
    ax.set(xlabel='accuracy gained over a single view (points)', ylim=(-.6, len(figures) - .4))
    ax.tick_params(axis='y', length=0, labelsize=9)
    ax.legend(frameon=False, fontsize=9, loc='upper left', bbox_to_anchor=(1, 1))
    ax.spines[['top', 'right', 'left']].set_visible(False)
    plt.close(fig)
    return fig


def asked_networks(command: str, names, results, data: str | None, images: int | None, say,
                   also: str = '') -> tuple:
    """For `command`: ({name: run or published network}, images, labels, folder of the records or
    None), everything checked before the work; `also` is what else may be named."""
    if not names:
        raise InputError(f'{command}: name a run or a published network '
                         f'({", ".join(registry())}){also}.')
    opened = {Path(n).resolve().name: open_network(n) for n in names}
    if len(opened) < len(names):
        raise InputError(f'{command}: two of {", ".join(map(str, names))} have one name: ask them '
                         'one by one.')
    x, y = load('test', data, say=say)
    if images is not None and not 1 <= images <= len(x):
        raise InputError(f'--images {images}: choose a number from 1 to {len(x)}.')
    folder = writable_folder(Path(results) / command) if results else None
    return opened, x[:images], y[:images], folder


def command_tta(names=(), results=None, data: str | None = None, device: str | None = None,
                images: int | None = None, say=print):
    """What `cifar_nb tta` does: confidence and gain by test-time augmentation of runs or published
    networks on test images; kept in `results`/tta if that is given."""
    opened, x, y, folder = asked_networks('tta', names, results, data, images, say)
    found = {}
    for name, run in opened.items():
        found[name] = answer_figures(run.load_net(device), x, y, run.recipe.phases[-1])
        if folder:
            keep_figures(folder, name, run, x, y, device, dict(transforms=list(SETS)),
                         answers=found[name])
    say(f'{answers_table(found)}\n{len(y):,} images; gains over a single view, with standard '
        'errors')
