"""Plain module: the network of a run packed and published: a file of weights, a card, an entry in
the registry. Tests: tests/test_pretrained.py, tests/test_runs.py, chapter 63.
"""
from pathlib import Path

import torch

from ..core.errors import InputError, check_choice
from ..core.files import slug, there, write_atomic
from ..data.cifar import CLASSES, SHAPES
from ..evaluation.pretrained import WEIGHT_KINDS, WEIGHTS, Pretrained, pack, unpack
from ..evaluation.records import with_test_figures
from ..evaluation.shelf import read_registry, shelve
from ..evaluation.tta import one_and_mean
from ..recipes.spec import trained
from ..teams.zoo import address, known_as
from ..training.checkpoints import Run
from ..training.loop import loss_and_accuracy

__all__ = ['training_command', 'card', 'renew_cards', 'judged', 'publish']


def training_command(m: dict, recipe, run: dict) -> str:
    """The command that gives the run of the manifest `m` (None: one from before there were
    manifests, of which `run` tells); '' if none does."""
    try: known = known_as(recipe.name, recipe.variant)
    except InputError: return ''
    epochs, what = recipe.epochs, m['recipe'] if m else trained(recipe)
    name, variant = address(recipe.name, recipe.variant)
    asked = {'report': name, 'code': f'{name} --variant code'}.get(variant, f'{name}:{variant}')
    if trained(known) == what: stretched = ''
    elif epochs >= len(known.phases) and trained(known.with_epochs(epochs)) == what:
        stretched = f' --epochs {epochs}'
    else: return ''
    if (run['data'] not in ('cifar10', 'toy') or m
        and not (isinstance(m['validation'], dict) and isinstance(m['validation']['images'], int))):
        return ''
    held = m['validation']['images'] if m else 0
    if m and m['weights'] != ('best on validation' if held else 'last'): return ''
    images = m['data']['images'] if m else run['train_images']
    whole = 5_000 if run['data'] == 'toy' else 50_000
    words = [f' --seed {run["seed"]}', stretched,
             ' --data toy' * (run['data'] == 'toy'),
             f' --images {images}' * (images != whole), f' --holdout {held}' * bool(held),
             f" --precision '{m['precision']} nchw'" if m
             and m['memory_format'] == 'contiguous' else '']
    return f'cifar_nb train {asked}{"".join(words)}'

def card(name: str, entry: dict, recipe) -> str:
    "The model card of the network `name` as Markdown."
    e, run = entry, entry['run']
    classes, of = ((tuple(SHAPES), 'drawn shapes, the toy set of this book')
                   if run['data'] == 'toy' else (CLASSES, 'CIFAR-10'))
    how = _how(e.get('manifest'), training_command(e.get('manifest'), recipe, run))
    several = (f", {e['tta_accuracy']:.2f}% with TTA of {len(recipe.tta_transforms)} transforms"
               if 'tta_accuracy' in e else '')
    last = recipe.phases[-1]
    head = (f'{recipe.title or recipe.name}: a classifier of 32 x 32 color pictures into the ten '
            f'classes of {of}, {e["parameters"]:,} trainable parameters.')
    points = [
        f'**Accuracy** on {e["images"]:,} images ({e["set"]}): {e["accuracy"]:.2f}%{several}. '
        f'Before it was packed as {e["kind"]} the network had {run["accuracy"]:.2f}% '
        'without TTA.',
        f'**Input**: float32 `N,3,32,32`, red, green and blue from 0 to 1, minus '
        f'{_numbers(last.mean)}, divided by {_numbers(last.std)}. **Output**: ten logits, in the '
        f'order {", ".join(classes)}.',
        f'**Trained** {how} in {run["seconds"]:.0f} s on {run["hardware"]} ({run["precision"]}, '
        f'torch {run["torch"]}): {run["epochs"]} epochs of {run["train_images"]:,} images, the '
        f'weights of the {run["checkpoint"]} epoch. Recipe: {recipe.source}.',
        '**Not for** pictures of anything else: it answers with one of the ten classes whatever it '
        'is shown, and its confidence is not calibrated.',
        f'**File**: `{e["file"]}`, {e["bytes"]:,} bytes, sha256 `{e["sha256"]}`. MIT licence.']
    code = f"""```python
from cifar_nb.evaluation.pretrained import load_pretrained
net, recipe = load_pretrained('{name}')
```"""
    return _for_the_hub(name, e) + '\n\n'.join(
        [f'# {name}', head, code, '\n'.join(f'- {p}' for p in points)]) + '\n'

def _for_the_hub(name: str, e: dict) -> str:
    "The block of YAML with which a card begins that the Hugging Face Hub reads."
    data = ('uoft-cs/cifar10', 'CIFAR-10', 'test') if e['run']['data'] == 'cifar10' else None
    lines = ['---', 'license: mit', 'library_name: cifar_nb',
             'pipeline_tag: image-classification', 'tags: [cifar10, resnet, safetensors]']
    if data:
        kind, title, part = data
        metrics = [('Accuracy', e['accuracy'])] + (
            [('Accuracy with TTA', e['tta_accuracy'])] if 'tta_accuracy' in e else [])
        lines += [f'datasets: [{kind}]', 'metrics: [accuracy]', 'model-index:', f'- name: {name}',
                  '  results:', '  - task: {type: image-classification}',
                  f'    dataset: {{name: {title}, type: {kind}, split: {part}}}', '    metrics:',
                  *(f'    - {{type: accuracy, name: "{n}", value: {v / 100:.4f}}}'
                    for n, v in metrics)]
    return '\n'.join([*lines, '---', '', ''])

def _how(m: dict | None, command: str) -> str:
    "By which `command`, or else with what recipe, the run of the manifest `m` was trained."
    if command: return f'by `{command}`'
    differs = (m or {}).get('differs') or {}
    what = (f'{differs["of"]} with {"; ".join(differs["lines"])}' if differs.get('lines') else
            'which no name and no option of this release stands for')
    return f'with the recipe inside the file, {what},'

def _numbers(values): return '(' + ', '.join(f'{v:g}' for v in values) + ')'


def renew_cards(folder=None) -> list:
    """Write the cards of all networks in `folder` (default: the package's) anew, from the registry
    and the recipes inside the files; the paths of those that have changed."""
    folder, changed = Path(folder or WEIGHTS), []
    for name, e in read_registry(folder).items():
        path, text = folder / f'{name}.md', card(name, e, Pretrained(name, folder).recipe)
        if there(path) and path.read_text(encoding='utf-8') == text: continue
        write_atomic(path, text)
        changed.append(path)
    return changed


def judged(net, x, y, recipe) -> dict:
    """Accuracy (%) of `net` on the uint8 images `x`: without TTA, and if the recipe has several
    with their mean."""
    one, several = (round(loss_and_accuracy(l, y)[1], 2)
                    for l in one_and_mean(net, x, recipe.phases[-1], recipe.tta_transforms))
    return dict(accuracy=one) | (
        dict(tta_accuracy=several) if len(recipe.tta_transforms) > 1 else {})

def publish(
    run,                       # folder of a finished and evaluated run
    x: torch.Tensor,           # uint8 N,3,32,32, the test images
    y: torch.Tensor,           # int64 N
    name: str | None = None,          # default: that of the recipe, with -code for a code's
    kind: str = 'fp16',
    folder=None,               # default: the package's
    overwrite: bool = False,   # even a network of another run that has this name
) -> dict:
    """Pack the network of `run`, judge what was packed, and write file, card and entry into
    `folder`; the entry."""
    from safetensors.torch import save
    run = Run(run)
    recipe, manifest = run.recipe, run.manifest
    r = with_test_figures(run.result, manifest, run.evaluations)
    if 'test' not in r:
        raise InputError(f'{run.path} has not been evaluated on its test set: run `cifar_nb '
                         f'evaluate {run.path}` first.')
    check_choice('kind of weights', kind, WEIGHT_KINDS)
    name = name or (slug(recipe.name).replace('.', '_') + '-code' * (recipe.variant == 'code'))
    if not name.replace('-', '').replace('_', '').isalnum():
        raise InputError(f'{name!r} cannot be the name of a network: use letters, digits, - and _.')
    packed = pack(run.load_net('cpu').state_dict(), kind)
    # one entry, for several would come in any order
    data = save(packed, metadata=dict(recipe=recipe.to_json()))
    net = recipe.net.build()
    net.load_state_dict(unpack(packed))
    kept = ('variant', 'seed', 'epochs', 'train_images', 'seconds', 'checkpoint', 'device',
            'hardware', 'precision', 'torch')
    entry = dict(kind=kind, parameters=r['parameters'], **judged(net.eval(), x, y, recipe),
                 images=len(y), set=r['test']['set'], manifest=manifest,
                 run=dict(recipe=recipe.name, data=manifest['data']['name'],
                          accuracy=r['test']['accuracy'], **{k: r[k] for k in kept}))
    return shelve(folder or WEIGHTS, name, data, entry, lambda e: card(name, e, recipe), overwrite)
