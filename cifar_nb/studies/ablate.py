"""Plain module: the command `cifar_nb ablate`: which studies there are at which scale, and their
tables. Tests: tests/test_ablations.py, chapter 32.
"""
from ..core.errors import InputError, check_choice
from ..data.cifar import load_set
from .ablations import SCALES, Scale, run_study, study_progress, table
from .findings import in_words
from .scales import studies_at

__all__ = ['studies_called', 'scale_for', 'command_ablate']


def studies_called(names, scale: str = 'fast') -> list:
    "The studies at `scale` with these `names` (spaces or hyphens), all of them without any."
    known = {s.name.replace(' ', '-'): s for s in studies_at(scale)}
    for n in names: check_choice(f'study at scale {scale} called', n.replace(' ', '-'), known)
    return [known[n.replace(' ', '-')] for n in names] or studies_at(scale)


def scale_for(name: str, x, data: str = 'cifar10') -> Scale:
    """The scale `name` for the images `x` of the set `data` (as `load_set` calls it), fitted to the
    toy set where it is that."""
    return (SCALES[name]._replace(images=len(x), held=len(x) // 5, data='toy')
            if data == 'toy' else SCALES[name]._replace(data=data))


def command_ablate(studies=(), scale: str = 'fast', seeds: int = 3, results='results',
                   data: str | None = None,
                   device: str | None = None, listed: bool = False, say=print):
    """What `cifar_nb ablate` does: run the missing trials of the studies named `studies` at
    `scale`, and print their tables and what they could see, or list them."""
    if scale not in SCALES:
        raise InputError(f'There is no scale {scale!r}; choose from {", ".join(SCALES)}.')
    if seeds < 2: raise InputError(f'--seeds {seeds}: a spread needs two seeds or more.')
    chosen = studies_called(studies, scale)
    if listed: return say(str(study_progress(results, chosen, SCALES[scale], seeds)))
    x, y, found = load_set('train', data, say)
    records = run_study(chosen, x, y, results, scale_for(scale, x, found), seeds, device, say)
    for s in chosen:
        say(f'\n{s.question}\n{table(s, records, scale)}')
        if told := in_words(s, records, scale): say(told)
