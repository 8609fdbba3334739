"""Plain module: what a network answers to test images, as a record: how far its confidence can be
trusted, and what test-time augmentation gains it.

Tests: tests/test_networks.py.
"""
from pathlib import Path

import torch

from ..core.files import json_records, slug
from ..core.version import versions
from ..data.cifar import CIFAR10
from ..training.loop import loss_and_accuracy
from ..training.precision import choose_device, choose_precision, hardware, memory_order
from ..training.train import describe_images
from .calibration import calibration_floor
from .pretrained import registry
from .records import warn, write_record
from .report import calibration_error, paired_gain, reliability
from .tta import VIEW_SETS, mean_of_views, view_logits

__all__ = ['SETS', 'answer_figures', 'keep_figures', 'network_records']

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


def keep_figures(folder, name: str, run, x, y, device: str | None, asked: dict, **figures) -> Path:
    """Keep `figures` of the network of `run` on the images `x`, `y`, the answers to `asked`, in
    `folder`; they replace those of the same weights, images and `asked` only. The record says where
    they were computed."""
    asked = dict(weights=run.weights, images=describe_images(x, y)) | asked
    images = asked['images']
    stem = slug(name) + ('' if images['fingerprint'] == CIFAR10['test'] else
                         f'-{images["images"]}images-{images["fingerprint"][:6]}')
    where = choose_device(device)
    precision = choose_precision(where)
    facts = dict(precision=precision.name, memory_format=memory_order(precision),
                 device=where.type, processor=hardware(where), versions=versions())
    return write_record(folder, stem, dict(schema=1, network=name, asked=asked) | facts | figures,
                        lambda r: (r.get('network'), r.get('asked')) == (name, asked))


def network_records(folder='results/tta') -> dict:
    """The figures that `folder` has of the networks that are published on all test images, name to
    figures, the most accurate last; those of older weights do not count."""
    today = {e['sha256'][:16]: n for n, e in registry().items()}
    found = {today[w]: r['answers'] for _, r in json_records(folder, warn)
             if 'answers' in r and (w := r.get('asked', {}).get('weights')) in today
             and r['asked']['images']['fingerprint'] == CIFAR10['test']}
    return dict(sorted(found.items(), key=lambda f: f[1]['accuracy']))
