"""Plain module: one way to change a recipe. Tests: tests/test_vary.py, tests/test_change.py."""
import re
from dataclasses import fields, is_dataclass, replace

from ..augment.ops import Transform, transform_from_dict
from ..core.errors import InputError, check_choice
from ..models.count import deeper, scaled
from ..models.airbench import FastSpec
from ..models.resnet import NetSpec
from .checks import check_fields, shown
from .spec import Optimizer, Phase, Recipe, Schedule

__all__ = ['fields_of', 'check_field', 'OTHER_NAMES', 'vary']

_OF_RECIPE = ('ema', 'ema_warmup', 'clip', 'tta_transforms')
# what a phase holds, and the field that names its kind
_INSIDE = dict(optimizer=(Optimizer, 'name'), schedule=(Schedule, 'shape'))

OTHER_NAMES = {  # what fields are called elsewhere
    other: name for name, others in dict(
        lr='learning_rate learningrate max_lr base_lr peak_lr step_size',
        weight_decay='wd l2 decay', momentum='mom mu', betas='beta beta1 beta2',
        optimizer='opt optim', schedule='sched scheduler lr_schedule lr_scheduler',
        shape='decay_shape', warmup_epochs='warmup warm_up', t_max='tmax', milestones='steps',
        batch_size='bs batch batchsize minibatch', micro_batch='microbatch accumulate grad_accum',
        augment='aug augs augmentation augmentations transform transforms',
        label_smoothing='smoothing ls', epochs='epoch n_epochs num_epochs',
        keep_fraction='hard_examples', net='network model arch architecture',
        widths='width channels filters', depths='layers blocks', activation='act nonlinearity',
        dropout='drop drop_rate p_drop', ema='ema_decay averaging', clip='grad_clip clip_norm',
        tta_transforms='tta views').items() for other in others.split()}
_FOR_PEOPLE = 'it tells people about the recipe; write it into the file of recipe.to_json()'
_NOT_SET = dict(  # fields of a recipe that stay, and what to do
    phases='its fields are set one by one, lr=0.05 in every phase, phase2.lr=0.01 in the second',
    notes=_FOR_PEOPLE, source=_FOR_PEOPLE, claims=_FOR_PEOPLE,
    variant='choose it with the recipe, as NAME:code or --variant code')
_LISTED = 'recipe.to_json(), and the recipe.json of a run, show them all.'


def check_field(name: str, known, what: str = 'field of a recipe'):
    "Raise `InputError` unless `name` is among the `known` names, or says why it cannot be set."
    if name in _NOT_SET and name not in known:
        raise InputError(f'{name} cannot be set: {_NOT_SET[name]}.')
    check_choice(what, name, sorted(known), OTHER_NAMES, _LISTED)


def _names(of) -> set: return {f.name for f in fields(of)}


def fields_of(recipe: Recipe) -> dict:
    "The names that `vary` takes for `recipe`: a set for each part of it. No two parts share one."
    return {'network': _names(recipe.net), 'phase': _names(Phase),
            'optimizer': _names(Optimizer) - {'name'}, 'schedule': _names(Schedule),
            'recipe': {*_OF_RECIPE}}


def vary(recipe: Recipe, width_factor: float = 1, depth_factor: int = 1, without: str = '',
         **changes) -> Recipe:
    """`recipe` with `changes`: values for the fields of its network, its phases, their optimizers
    or their schedules, whichever have them, or for `ema`, `ema_warmup`, `clip` and
    `tta_transforms`. Every phase takes them; a function is asked with the phase (`Phase`) what its
    value is.

    `optimizer` and `schedule` may be dictionaries of what is to change in them, or the name of
    another kind; `augment` holds operations, their names or the dictionaries that describe them.
    The fields of an optimizer or of a schedule go before the whole of it. `phase1`, `phase2`, ...
    are dictionaries of changes of one phase alone, and go before those of all. `net` is another
    network (`NetSpec` or `FastSpec`), or a dictionary of what is to change in it.

    `width_factor` multiplies the channels of a `NetSpec`, `depth_factor` its blocks, at equal
    parameters; `without` leaves the operations of that name out. `InputError` for unknown names
    and for values of another kind."""
    single, changes = _by_phase(recipe, changes)
    recipe, changes = _another_net(recipe, changes)
    homes = fields_of(recipe)
    for name in changes: check_field(name, {*set.union(*homes.values()), 'net'})
    def of(home): return {k: v for k, v in changes.items() if k in homes[home]}
    own = {home: of(home) for home in homes}
    net = _resized(recipe, width_factor, depth_factor)
    check_fields(type(net), own['network'])
    check_fields(Recipe, own['recipe'])
    out = replace(recipe, net=replace(net, **own['network']), **own['recipe'],
                  phases=tuple(_phase(p, own, without) for p in recipe.phases))
    for i, what in single.items(): out = _one_phase(out, i, what)
    return out


def _by_phase(recipe, changes) -> tuple:
    "The changes of single phases, by their position, and those of all."
    single, rest = {}, {}
    for k, v in changes.items():
        found = re.fullmatch(r'phase([0-9]{1,6})', k)
        if not found: rest[k] = v; continue
        if not 1 <= int(found[1]) <= len(recipe.phases):
            raise InputError(f'There is no {k}: {recipe.name} has {len(recipe.phases)} '
                             f'phase{"s" * (len(recipe.phases) > 1)}, counted from 1.')
        if not isinstance(v, dict):
            raise InputError(f'{k}={shown(v)}: give a dictionary of changes, such as '
                             "{'lr': 0.01}.")
        single[int(found[1]) - 1] = v
    return single, rest


def _another_net(recipe, changes: dict) -> tuple:
    "`recipe` with the network of `changes`, and the changes that are left."
    net = changes.get('net', {})
    rest = {k: v for k, v in changes.items() if k != 'net'}
    if isinstance(net, dict):
        for name in net:
            check_choice('field of the network', name, sorted(_names(recipe.net)), OTHER_NAMES)
            if name in rest: raise InputError(f'net and {name} both say what {name} is: give it '
                                              'once.')
        return recipe, {**net, **rest}
    if not isinstance(net, (NetSpec, FastSpec)):
        raise InputError(f'net={shown(net)}: give a NetSpec or a FastSpec, or a dictionary of what '
                         'is to change in the network, such as {"widths": (32, 64, 128)}.')
    return replace(recipe, net=net), rest


def _one_phase(recipe, i: int, changes: dict) -> Recipe:
    "`recipe` with `changes` in its phase number `i`, counted from 0."
    homes = fields_of(recipe)
    known = homes['phase'] | homes['optimizer'] | homes['schedule'] | {'without'}
    for name in changes: check_field(name, known, 'field of a phase')
    p = vary(replace(recipe, phases=(recipe.phases[i],)), **changes).phases[0]
    return replace(recipe, phases=(*recipe.phases[:i], p, *recipe.phases[i + 1:]))


def _resized(recipe, width_factor, depth_factor):
    "The network with its channels and blocks multiplied."
    if (width_factor, depth_factor) == (1, 1): return recipe.net
    if not isinstance(recipe.net, NetSpec):
        raise InputError(f'{recipe.name}: only a NetSpec is made wider or deeper by a factor; '
                         'give widths.')
    for name, v, kinds in (('width_factor', width_factor, (int, float)),
                           ('depth_factor', depth_factor, int)):
        if not isinstance(v, kinds) or isinstance(v, bool) or not 0 < v <= 1000:
            raise InputError(f'{name}={shown(v)}: give a {"whole " * (kinds is int)}number above '
                             '0, up to 1000.')
    net = deeper(recipe.net, depth_factor) if depth_factor > 1 else recipe.net
    return scaled(net, width_factor)


def _phase(p: Phase, own: dict, without: str) -> Phase:
    "The phase `p` with its `own` changes."
    def asked(home): return {k: v(p) if callable(v) else v for k, v in own[home].items()}
    changes = asked('phase')
    check_fields(Phase, changes)
    if 'augment' in changes: changes['augment'] = _operations(changes['augment'])
    if without:
        changes['augment'] = tuple(op for op in changes.get('augment', p.augment)
                                   if type(op).__name__ != without)
    for part, (of, kind) in _INSIDE.items():
        old = getattr(p, part)
        begun, what = _inside(part, of, kind, changes.get(part, {}))
        what |= asked(part)
        check_fields(of, what)
        changes[part] = replace(begun or old, **what)
    return replace(p, **changes)


def _inside(part: str, of, kind: str, whole) -> tuple:
    "The optimizer or schedule to begin with, None for that of the phase, and the fields to change."
    if is_dataclass(whole) and _names(whole) == _names(of): return whole, {}
    if isinstance(whole, str): return None, {kind: whole}
    if not isinstance(whole, dict):
        raise InputError(f'{part}={shown(whole)}: give the name of one, or a dictionary of what is '
                         'to change in it.')
    for name in whole: check_choice(f'field of the {part}', name, sorted(_names(of)))
    return None, dict(whole)


def _operations(ops) -> tuple:
    "Operations from a list of them, of their names and of the dictionaries that describe them."
    if isinstance(ops, (str, dict)) or not hasattr(ops, '__iter__'):
        raise InputError(f'augment={shown(ops)}: give a list of operations, say ["RandomCrop", '
                         '{"transform": "Cutout", "size": 8}].')
    def built(op):
        if isinstance(op, Transform): return op
        d = dict(transform=op) if isinstance(op, str) else op
        try: return transform_from_dict(d)
        except TypeError as e:
            raise InputError(f'augment: {shown(op)} does not describe an operation ({e}); give its '
                             "arguments, say {'transform': 'Cutout', 'size': 8}.") from None
    return tuple(map(built, ops))
