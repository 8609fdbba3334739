"""Plain module: a recipe with something changed: what it is called, what differs, and recipes in
files. Tests: tests/test_change.py.
"""
import re
from dataclasses import fields, replace
from pathlib import Path

from ..core.errors import InputError, check_choice
from ..core.files import read_json, read_text
from ..core.forms import misfit
from .checks import shown
from .spec import Recipe, build_scheduler, recipe_from_json, stretch
from .vary import OTHER_NAMES, check_field, fields_of, vary

__all__ = ['changed', 'changes_from', 'changes_between', 'read_recipe', 'check_trainable']

LONGEST = 100  # characters of a name


def changed(recipe: Recipe, name: str | None = None, title: str | None = None,
            epochs: int | None = None, **changes) -> Recipe:
    """`recipe` planned for `epochs` (default: its own number), and then with the `changes` that
    `vary` takes. What differs is added to name and title, unless they are given: the figures of
    'quick, lr=0.05' are not those of quick. Without a change it is the recipe itself."""
    for key, text in (('name', name), ('title', title)):
        if text is not None and (not isinstance(text, str) or not 0 < len(text) <= LONGEST):
            raise InputError(f'{key}={shown(text)}: give a text of at most {LONGEST} characters.')
    if epochs is not None and type(epochs) is not int:
        raise InputError(f'epochs={shown(epochs)}: give a whole number.')
    begun = recipe if epochs is None else stretch(recipe, epochs)
    if changes.get('without'): _check_without(begun, changes['without'])
    out = vary(begun, **changes)
    said = ', '.join(_told(begun, changes)) if out != begun else ''
    def called(given, old): return given or (_short(f'{old}, {said}') if said and old else old)
    return replace(out, name=called(name, recipe.name), title=called(title, recipe.title))


def _short(text: str) -> str: return text if len(text) <= LONGEST else f'{text[:LONGEST - 3]}...'


def _check_without(recipe, name):
    known = {type(op).__name__ for p in recipe.phases for op in p.augment}
    check_choice(f'operation of {recipe.name}', name, sorted(known))


def _told(recipe, changes: dict) -> list:
    "Those of `changes` that change something, each in a few words: 'lr=0.05', 'augment'."
    def counts(k, v):
        try: return vary(recipe, **{k: v}) != recipe
        except InputError: return True  # possible with the other changes only
    return [w for k, v in changes.items() if counts(k, v) for w in _words(k, v)]


def _words(key: str, value) -> list:
    if isinstance(value, dict):
        inside = f'{key}.' if key.startswith('phase') else ''
        return [w for k, v in value.items() for w in _words(
            f'{inside}{key if k in ("name", "shape") and not inside else k}', v)]
    short = isinstance(value, (str, int, float)) and len(str(value)) <= 24
    return [f'{key}={value}' if short else key]


# From the words of a command line to the arguments of `changed`

PARTS = dict(net='network', optimizer='optimizer', schedule='schedule')
OTHERS = ('net', 'name', 'title', 'width_factor', 'depth_factor', 'without')


def changes_from(recipe: Recipe, settings: list) -> dict:
    """The arguments of `changed` from `settings`, pairs (key, value). A key is a field that `vary`
    takes, `net` (a dictionary), name or title, also with the part it stands in (`optimizer.lr`,
    `schedule.t_max`, `net.widths`), and of one phase alone after `phase1.`, `phase2.`, ..."""
    out: dict = {}
    keys: dict = {}
    for key, value in settings:
        phase, field = place = _place(recipe, key)
        if place in keys: raise InputError(f'{_both(keys[place], key)}: give it once.')
        keys[place] = key
        _home(out, phase)[field] = value
    for phase in {p for p, _ in keys}: _check_twice(_home(out, phase))
    return out


def _both(old: str, key: str) -> str:
    return (f'{key} is given twice' if old == key else f'{old} and {key} are the same field')


def _home(out: dict, phase: str) -> dict: return out.setdefault(phase, {}) if phase else out


def _place(recipe, key: str) -> tuple:
    "The phase ('' for all of them) and the field that `key` names."
    *parts, field = key.split('.')
    phase = parts.pop(0) if parts and re.fullmatch('phase[0-9]+', parts[0]) else ''
    homes = fields_of(recipe)
    if phase: homes |= dict(network=set(), recipe={'without'})
    if re.fullmatch('phase[0-9]+', field):
        raise InputError(f'{field} is a whole phase: name the field in it, such as {field}.lr.')
    if not parts:
        known = {*set.union(*homes.values()), *(() if phase else OTHERS)}
        check_field(field, known, f'field of a {"phase" if phase else "recipe"}')
        return phase, field
    check_choice('part of a recipe', parts[0], tuple(PARTS), OTHER_NAMES)
    known = homes[PARTS[parts[0]]] | ({'name'} if parts[0] == 'optimizer' else set())
    check_choice(f'field of the {PARTS[parts[0]]}', '.'.join([*parts[1:], field]), sorted(known),
                 OTHER_NAMES)
    # the kind of optimizer has the name of the whole
    return phase, 'optimizer' if field == 'name' else field


def _check_twice(changes: dict):
    "Raise `InputError` where a dictionary for the whole says what another setting says."
    for part, kind in (('optimizer', ''), ('schedule', 'shape')):
        whole = changes.get(part, {})
        said = {*whole} - {'name'} if isinstance(whole, dict) else {kind}
        for field in sorted(said & changes.keys()):
            raise InputError(f'{part} and {field} both say what {field} is: give it once.')


# What differs

def _text(value) -> str:
    "`value` for people, cut off where it is long."
    if hasattr(value, 'brief'): return value.brief()
    if not isinstance(value, tuple): return f'{value}'
    text = ', '.join(map(_text, value)) or 'none'
    return text if len(text) <= 200 else f'{text[:197]}...'


def _differing(a, b, before: str = '', names=()) -> list:
    "A line for each field in which the dataclasses `a` and `b` of one kind differ."
    return [f'{before}{dict(names).get(f.name, f.name)}: {_text(u)} -> {_text(v)}'
            for f in fields(a) if (u := getattr(a, f.name)) != (v := getattr(b, f.name))
            and f.name not in ('optimizer', 'schedule')]


def _phases(a: Recipe, b: Recipe) -> list:
    out = [] if len(a.phases) == len(b.phases) else [f'phases: {len(a.phases)} -> {len(b.phases)}']
    several = max(len(a.phases), len(b.phases)) > 1
    for i, (p, q) in enumerate(zip(a.phases, b.phases), 1):
        before = f'phase{i}.' if several else ''
        out += (_differing(p, q, before)
                + _differing(p.optimizer, q.optimizer, before, [('name', 'optimizer')])
                + _differing(p.schedule, q.schedule, before))
    return out


def _lines(a: Recipe, b: Recipe) -> list:
    if type(a.net) is type(b.net): net = _differing(a.net, b.net)
    else: net = [f'network: {shown(a.net, 200)} -> {shown(b.net, 200)}']
    own = [f'{k}: {_text(u)} -> {_text(v)}' for k in ('ema', 'ema_warmup', 'clip', 'tta_transforms')
           if (u := getattr(a, k)) != (v := getattr(b, k))]
    return net + _phases(a, b) + own


def changes_between(base: Recipe, recipe: Recipe) -> list:
    """What is said differently in `recipe` than in `base`, a line a field, with the keys that
    `--set` takes: 'lr: 0.1 -> 0.05'. A plan that was only stretched is one line."""
    lines = _lines(base, recipe)
    if base.epochs == recipe.epochs or len(base.phases) > recipe.epochs: return lines
    rest = _lines(stretch(base, recipe.epochs), recipe)
    first = f'epochs: {base.epochs} -> {recipe.epochs}, with the schedule'
    return [first, *rest] if len(rest) < len(lines) else lines


# Recipes in files

GIVE = 'give a recipe.json that cifar_nb wrote, or the text of recipe.to_json().'
FORM = dict(name=str, net=dict, phases=[dict])


def read_recipe(path) -> Recipe:
    "The recipe in the JSON file `path`, or in the run in the folder `path`."
    path = Path(path)
    file = path / 'recipe.json' if path.is_dir() else path
    if why := misfit(read_json(file, GIVE), FORM):
        raise InputError(f'{file} is not a recipe ({why}): {GIVE}')
    try: return recipe_from_json(read_text(file, GIVE))
    except InputError as e: raise InputError(f'{file} cannot be used: {e}') from None


def check_trainable(recipe: Recipe, classes: int = 10):
    """Raise `InputError` where torch refuses an optimizer or a schedule of `recipe`, or its network
    does not tell `classes` classes apart: now rather than in a later phase."""
    import torch
    if recipe.net.classes != classes:
        raise InputError(f'{recipe.name}: classes={recipe.net.classes}; the images have '
                         f'{classes} classes.')
    for p in recipe.phases:
        optimizer = p.optimizer.build([torch.nn.Parameter(torch.zeros(1, 1, 1, 1))])
        build_scheduler(p.schedule, optimizer)
