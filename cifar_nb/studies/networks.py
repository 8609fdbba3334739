"""Plain module: how far the confidence of a finished network can be trusted and what test-time
augmentation gains it, and `cifar_nb tta`.

Tests: tests/test_networks.py, chapters 08a and 09.
"""
import re
from pathlib import Path

import torch

from ..core.errors import InputError
from ..core.files import json_records
from ..core.tables import Table
from ..data.cifar import CIFAR10, load
from ..evaluation.calibration import calibration_floor
from ..evaluation.pretrained import open_network, registry
from ..evaluation.records import warn, write_record
from ..evaluation.report import calibration_error, paired_gain, reliability
from ..evaluation.tta import VIEW_SETS, mean_of_views, view_logits
from ..training.loop import loss_and_accuracy
from ..training.train import describe_images

__all__ = ['SETS', 'answer_figures', 'keep_answers', 'network_records', 'answers_table',
           'show_calibrations', 'show_tta', 'command_tta']

SETS = 'pair', 'six', 'five'  # of `VIEW_SETS`


def answer_figures(net, x, y, phase) -> dict:
    """What `net` answers to the uint8 images `x`, as numbers for JSON: accuracy (%) and
    cross-entropy of a single view, its mean confidence (%), ECE (points), the ECE that a perfectly
    calibrated network would have by chance, and images, confidence and accuracy in each of 15 bins;
    'gains': for each of `SETS` and each single transform averaged with the identity, points of
    accuracy gained and their standard error."""
    names = list(dict.fromkeys(v for s in SETS for v in VIEW_SETS[s]))
    each = dict(zip(names, view_logits(net, x, phase, names)))
    one = each['identity']
    means = {s: mean_of_views(torch.stack([each[v] for v in VIEW_SETS[s]])) for s in SETS}
    means |= {f'identity, {v}': (one + a) / 2 for v, a in each.items() if v != 'identity'}
    loss, accuracy = loss_and_accuracy(one, y)
    confidence = 100 * one.double().softmax(1).amax(1).mean().item()
    return dict(images=len(y), accuracy=accuracy, loss=loss, confidence=confidence,
                ece=calibration_error(one, y), by_chance=calibration_floor(one),
                bins=[v.tolist() for v in reliability(one, y)],
                gains={name: list(paired_gain(one, m, y)) for name, m in means.items()})


def keep_answers(folder, name: str, run, x, y, figures: dict) -> Path:
    """Keep the `figures` of the network of `run` on the images `x`, `y` in `folder`; they replace
    those of the same weights and images only."""
    asked = dict(weights=run.weights, images=describe_images(x, y), transforms=list(SETS))
    whole = asked['images']['fingerprint'] == CIFAR10['test']
    stem = re.sub('[^0-9A-Za-z_-]+', '_', name) + (
        '' if whole else f'-{asked["images"]["images"]}images-{asked["images"]["fingerprint"][:6]}')
    return write_record(folder, stem, dict(schema=1, network=name, asked=asked, answers=figures),
                        lambda r: (r.get('network'), r.get('asked')) == (name, asked))


def network_records(folder='results/tta') -> dict:
    """The figures that `folder` has of the networks that are published, name to figures, the most
    accurate last; those of older weights do not count."""
    today = {e['sha256'][:16]: n for n, e in registry().items()}
    found = {today[w]: r['answers'] for _, r in json_records(folder, warn)
             if 'answers' in r and (w := r.get('asked', {}).get('weights')) in today}
    return dict(sorted(found.items(), key=lambda f: f[1]['accuracy']))


def answers_table(figures: dict) -> Table:
    """A row for each network of `figures` (name to `answer_figures`): accuracy, mean confidence,
    ECE beside what chance explains, and what each of `SETS` gains."""
    def gain(f, s): return '{:+.2f} ± {:.2f}'.format(*f['gains'][s])
    return Table({'network': name, 'accuracy': f"{f['accuracy']:.2f}%",
                  'confidence': f"{f['confidence']:.1f}%",
                  'ECE': f"{f['ece']:.1f}", 'by chance': f"{f['by_chance']:.1f}",
                  **{f'{s}, points': gain(f, s) for s in SETS}} for name, f in figures.items())


def show_calibrations(figures: dict):
    "Mean confidence less accuracy, bin by bin, of each network of `figures`, as a Figure."
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
            i = [k for k in range(len(n)) if n[k] and above[k] == over]
            ax.scatter([confidence[k] for k in i], [accuracy[k] for k in i],
                       [6 + 2 * size[k] for k in i], color=color, marker=mark, label=word)
        ax.plot([0, 1], [0, 1], '--', color='#555', lw=1)
        ax.set_title(f'{name}\nECE {f["ece"]:.1f} points', fontsize=9)
        ax.set(xlim=(0, 1), ylim=(0, 1))
        ax.spines[['top', 'right']].set_visible(False)
    for ax in axes[-1]: ax.set_xlabel('confidence')
    for ax in axes[:, 0]: ax.set_ylabel('accuracy')
    axes[0, 0].legend(frameon=False, fontsize=9, loc='upper left', handletextpad=.1)
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


def command_tta(names=(), results=None, data: str | None = None, device: str | None = None,
                images: int | None = None, say=print):
    """What `cifar_nb tta` does: confidence and gain by test-time augmentation of runs or published
    networks on test images; kept in `results`/tta if that is given."""
    if not names:
        raise InputError(f'tta: name a run or a published network ({", ".join(registry())}).')
    opened = [open_network(n) for n in names]
    x, y = load('test', data, say=say)
    if images is not None and not 1 <= images <= len(x):
        raise InputError(f'--images {images}: choose a number from 1 to {len(x)}.')
    x, y, found = x[:images], y[:images], {}
    for name, run in zip(names, opened):
        short = Path(name).name
        found[short] = answer_figures(run.load_net(device), x, y, run.recipe.phases[-1])
        if results: keep_answers(Path(results) / 'tta', short, run, x, y, found[short])
    say(f'{answers_table(found)}\n{len(y):,} images; gains over a single view, with standard '
        'errors')
