"""Plain module: the book's own recipes; chapters 47 and 48 explain what was chosen and why."""
from dataclasses import replace

from ..augment.ops import (AlternatingFlip, Cutout, RandomCrop, RandomErasing, RandomHorizontalFlip,
                           Resize)
from ..augment.policies import TrivialAugmentWide
from ..models.airbench import FastSpec
from ..models.resnet import NetSpec
from .spec import SMALL, Optimizer, Phase, Recipe, Schedule
from .vary import vary

__all__ = ['LAPTOP', 'QUICK', 'HOUR', 'PREACT', 'RECORD', 'HOUSE']

_SIX = ('identity', 'flip', 'up+left', 'up+left+flip', 'down+right', 'down+right+flip')

LAPTOP = Recipe(
    name='laptop', title='Minutes on two cores',
    net=FastSpec(widths=(64, 256, 256), activation='gelu', bn_momentum=0.1),
    phases=(Phase(
        epochs=15, batch_size=500, label_smoothing=0.2,
        augment=(AlternatingFlip(), RandomCrop(2, 'reflect'),
                 Resize((20,) * 5 + (24,) * 3 + (28,) * 4 + (32,) * 3)),
        optimizer=Optimizer('Muon', lr=0.1, momentum=0.8, nesterov=True, bias_lr=26.5,
                            head_lr=335.0, weight_decay=1e-3),
        schedule=Schedule('linear', t_max=15, unit='step')),),
    tta_transforms=_SIX, source='this book, after airbench94_muon (Jordan, 2024)',
    notes=('bias_lr and head_lr go with the batch: airbench takes the sum of the losses, with '
           '0.053 and 0.67, and here it is their mean',))

QUICK = vary(
    replace(LAPTOP.with_epochs(8), name='quick', title='Past 90% while you wait'),
    widths=(32, 128, 128), micro_batch=250, keep_fraction=(1, 1, 1, 1, .7),
    augment=(*LAPTOP.phases[0].augment[:-1], Resize((16, 20, 24, 24, 28, 32, 32, 32))))

HOUR = Recipe(
    name='hour', title='An hour on two cores',
    net=FastSpec(widths=(128, 256, 352), depth=3, activation='gelu', bn_momentum=0.1),
    phases=(Phase(
        epochs=70, batch_size=500, label_smoothing=0.2,
        augment=(AlternatingFlip(), RandomCrop(4, 'reflect'), Cutout(12),
                 Resize((24,) * 28 + (28,) * 21 + (32,) * 21)),
        optimizer=Optimizer('Muon', lr=0.06, momentum=0.8, nesterov=True, bias_lr=16.0,
                            head_lr=276.0, weight_decay=6e-4),
        schedule=Schedule('linear', t_max=70, unit='step')),),
    tta_transforms=_SIX, source='this book; groups of three, cutout and shifts of four pixels '
                                'after airbench96 (Jordan, 2024)')

PREACT = NetSpec(widths=(64, 128, 256), depths=(3, 3, 3), strides=(1, 2, 2), block='preact')

RECORD = Recipe(
    name='record', title='The most that fits', net=PREACT,
    phases=(Phase(
        epochs=200, batch_size=512, label_smoothing=0.1,
        augment=(RandomCrop(4, 'reflect'), RandomHorizontalFlip(), TrivialAugmentWide(),
                 RandomErasing()),
        optimizer=Optimizer('SGD', lr=0.4, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=Schedule('cosine', warmup_epochs=5, warmup_start_factor=0.05, t_max=195,
                          unit='step')),),
    ema=0.999, tta_transforms=_SIX, source='this book, after a public race of 300 s on an H20')

HOUSE = (SMALL, QUICK, LAPTOP, HOUR, RECORD)
