"""Plain module: the studies of chapter 32 at two more scales, and which there are at each.

`medium` has a base past 90% on all images; the rates of its optimizers are chosen with seed 0, in
the study `rates`, and judged with the seeds from 1. `long` has the small network, half as many
images as `fast`, and five times the epochs: there overfitting shows, and what makes training harder
can pay.
Tests: tests/test_ablations.py, chapter 32.
"""
from dataclasses import replace

from ..recipes.house import QUICK
from ..recipes.spec import Optimizer, Recipe, Schedule
from ..recipes.vary import vary
from .ablations import STUDIES, Study

__all__ = ['MEDIUM', 'RATES', 'CHOSEN', 'MEDIUM_STUDIES', 'LONG_STUDIES', 'studies_at']

_small = {s.name: s for s in STUDIES}

# the schedule is a cosine, as the teams' are; everything else is that of `quick`
MEDIUM = replace(
    vary(QUICK, schedule=Schedule('cosine', warmup_epochs=0.8, t_max=7.2, unit='step')),
    name='medium', title='A base for studies', source='this book')

_DECAY = dict(SGD=5e-4, Adam=1e-4, AdamW=.05, RMSprop=1e-4)
RATES = dict(SGD=(1., 2., 4.), Adam=(.001, .002, .004, .008, .016),
             AdamW=(.001, .002, .004, .008, .016),
             RMSprop=(.0005, .001, .002, .004, .008, .016))
# the best of `RATES` with seed 0, none of them at an edge
CHOSEN = dict(SGD=2., Adam=.008, AdamW=.008, RMSprop=.008)


def _with_rates(rates: dict) -> dict:
    "The variations with the optimizers and rates in `rates`, name to several."
    def at(name, rate):
        more = dict(momentum=.9, nesterov=True) if name == 'SGD' else {}
        return dict(optimizer=Optimizer(name, rate, weight_decay=_DECAY[name], **more))
    return {f'{name}, rate {r:g}': at(name, r) for name, those in rates.items() for r in those}


MEDIUM_STUDIES = [
    Study('rates', 'Which rate for which optimizer?', _with_rates(RATES), group='optimization',
          small=MEDIUM, most=1),
    replace(_small['optimizer'], small=MEDIUM, first=1,
            question='Which optimizer, each at the best of its rates?',
            variations=_with_rates({name: (r,) for name, r in CHOSEN.items()})),
]


def _longer(base: Recipe) -> Recipe:
    "The small `base` in five times its epochs, with batches twice as large at twice its rate."
    rate = base.phases[0].optimizer.lr
    return replace(vary(base.with_epochs(40), batch_size=128, lr=2 * rate),
                   name=f'long {base.name}')


_LONG = ('policy', 'cutmix', 'size', 'schedule', 'weight decay', 'dropout', 'augmentation')
_LEFT_OUT = ('plateau',)  # it would judge by the images that it watches

LONG_STUDIES = [
    replace(s, small=_longer(s.small),
            variations={k: v for k, v in s.variations.items() if k not in _LEFT_OUT})
    for s in map(_small.get, _LONG)]


def studies_at(scale: str) -> list:
    "The studies that there are at `scale`, a key of `SCALES`."
    return dict(medium=MEDIUM_STUDIES, long=LONG_STUDIES,
                full=[s for s in STUDIES if s.team]).get(scale, STUDIES)
