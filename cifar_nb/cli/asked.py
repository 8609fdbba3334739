"""Plain module: which recipe a call of `cifar_nb train` asks for: a name, a file, and its changes.

Tests: tests/test_change.py.
"""
import os
from dataclasses import replace
from pathlib import Path

from ..core.errors import InputError
from ..evaluation.tta import check_views
from ..recipes.change import changes_between, changes_from, check_trainable, read_recipe
from ..recipes.spec import Recipe, trained
from ..teams.zoo import base_of, get_recipe, list_recipes

__all__ = ['recipe_asked']


def recipe_asked(name: str, variant: str | None = None, epochs: int | None = None,
                 settings=(), say=print) -> tuple:
    """The recipe called `name` (or NAME:VARIANT, as `get_recipe` takes it), or in the file or the
    run `name`, for `epochs` and with the `settings` (pairs of key and value), and the named one
    that it is a change of, or None."""
    recipe = _from_file(name, variant, say) if _is_file(name) else _named(name, variant)
    base = base_of(recipe) or (recipe if settings else None)
    changes = changes_from(recipe, settings)
    if epochs is not None and 'epochs' in changes:
        raise InputError('--epochs and --set epochs are the same: give it once.')
    if epochs is not None: changes['epochs'] = epochs
    changed = recipe.with_(**changes)
    if 'name' in changes and _is_another(changed):
        raise InputError(f'{changed.name} is another recipe already: choose another name.')
    check_views(changed.tta_transforms)
    check_trainable(changed)
    lines = changes_between(recipe, changed) if settings else ()
    if lines: say(f'{recipe.name} with {"; ".join(lines)}')
    return changed, base


def _named(name: str, variant) -> Recipe:
    "The recipe `name` as `variant`, which may stand behind its name instead."
    if not _is_known(name.partition(':')[0]): return get_recipe(name, variant or 'report')
    name, colon, of_name = name.partition(':')
    if colon and variant:
        raise InputError(f'{name}:{of_name} and --variant {variant} both name a variant: give one.')
    return get_recipe(name, of_name if colon else variant or 'report')


def _is_known(name: str) -> bool: return name in {r.name for r in list_recipes()}


def _is_file(name: str) -> bool:
    "Whether `name` means a file or a folder: names of recipes come first."
    if _is_known(name.partition(':')[0]): return False
    return name.endswith('.json') or os.path.lexists(name)


def _from_file(path: str, variant, say) -> Recipe:
    """The recipe in the file `path`; one that has the name of a known recipe, and is another, gets
    a name of its own."""
    recipe = read_recipe(path)
    if variant not in (None, recipe.variant):
        raise InputError(f'{path} holds the variant {recipe.variant!r}: leave --variant out.')
    if not _is_another(recipe): return recipe
    stem = Path(path).stem if Path(path).suffix == '.json' else 'recipe'
    own = replace(recipe, name=f'{recipe.name}, {"changed" if stem == "recipe" else stem}'[:100])
    say(f'{path} is not the recipe {recipe.name} of this release, so it is called {own.name}')
    return own


def _is_another(recipe: Recipe) -> bool:
    "Whether `recipe` has the name of a known one and trains something else, its length aside."
    base = base_of(recipe)
    if base is None or base.name != recipe.name: return False
    if recipe.epochs < len(base.phases): return True
    return trained(recipe) != trained(base.with_epochs(recipe.epochs))
