"""Plain module: names in recipes and records that have changed, one table from old to new, which
every reader goes through.

A file that an older release wrote is read with today's names; nothing is ever written with an old
one. Tests: tests/test_manifest.py.
"""

__all__ = ['TRANSFORM_NAMES', 'FIELDS', 'TITLES', 'LOG_KEYS', 'RESULT_KEYS', 'renamed_recipe',
           'renamed_log', 'renamed_result', 'title']

TRANSFORM_NAMES = dict(Crop='RandomCrop', Flip='RandomHorizontalFlip', VFlip='RandomVerticalFlip',
                       Rotation='RandomRotation',
                       Affine='RandomAffine', Grayscale='RandomGrayscale', OneOf='RandomChoice')

FIELDS = dict(  # of what recipes are made of
    recipe=dict(views='tta_transforms'),
    phase=dict(hardest='keep_fraction'),
    schedule=dict(warmup='warmup_epochs', start='warmup_start_factor'),
    transform=dict(op='transform', ops='transforms'))

LOG_KEYS = dict(held_loss='val_loss', held_accuracy='val_accuracy')
RESULT_KEYS = dict(held_out='val_images', best_held_accuracy='best_val_accuracy',
                   accuracy_views='tta_accuracy', rung='variation', training='variation')

TITLES = {  # of variations in studies
    **{f'without {old}': f'without {new}' for old, new in TRANSFORM_NAMES.items()},
    'filters begin as copies': 'identity initialization',
    'shifts 64 times as fast': 'BN biases 64 times as fast',
    'orthogonal steps': 'orthogonalized updates',
    'pieces of 250 images': 'micro-batches of 250 images',
    'only the hardest': 'hard examples only'}


def title(name: str) -> str:
    "Today's title of the variation that was called `name`."
    return TITLES.get(name, name)


def _fields(d: dict, kind: str) -> dict:
    names = FIELDS[kind]
    return {names.get(k, k): v for k, v in d.items()}


def _transform(value):
    "A described transform, and those inside it, under today's names; anything else as it is."
    if isinstance(value, list): return [_transform(v) for v in value]
    if not isinstance(value, dict): return value
    d = {k: _transform(v) for k, v in _fields(value, 'transform').items()}
    return d | ({'transform': TRANSFORM_NAMES.get(d['transform'], d['transform'])}
                if isinstance(d.get('transform'), str) else {})


def _phase(d):
    if not isinstance(d, dict): return d
    d = _fields(d, 'phase')
    if isinstance(d.get('schedule'), dict): d['schedule'] = _fields(d['schedule'], 'schedule')
    return d | ({'augment': _transform(d['augment'])} if 'augment' in d else {})


def renamed_recipe(d: dict) -> dict:
    """The plain recipe `d` under today's names.

    Where it has the old ones it was written before a moving average warmed up, and says so if it
    has one: `ema_warmup` is false."""
    if 'views' in d and d.get('ema'): d = {**d, 'ema_warmup': False}
    d = _fields(d, 'recipe')
    return d | ({'phases': [_phase(p) for p in d['phases']]}
                if isinstance(d.get('phases'), list) else {})


def renamed_log(line: dict) -> dict:
    "A line of a log under today's names."
    return {LOG_KEYS.get(k, k): v for k, v in line.items()}


def renamed_result(d: dict) -> dict:
    "The facts of a run or of a study's trial under today's names."
    out = {RESULT_KEYS.get(k, k): v for k, v in d.items()}
    if out.get('checkpoint') == 'best held-out': out['checkpoint'] = 'best on validation'
    if isinstance(out.get('last'), dict): out['last'] = renamed_log(out['last'])
    if isinstance(out.get('variation'), str): out['variation'] = title(out['variation'])
    return out
