"""Plain module: the registry of the book: its own recipes and those of the five teams, by name.

Tests: tests/test_teams.py, tests/test_recipes.py.
"""
from dataclasses import replace

from ..core.errors import InputError
from ..recipes.house import HOUSE
from ..recipes.registry import Registry
from ..recipes.spec import Recipe, trained
from . import dreamfire, learning_too_deep, modified_resnet, narrow_resnet, neural_nomads

__all__ = ['TEAMS', 'register', 'list_recipes', 'get_recipe', 'address', 'known_as', 'base_of',
           'todays']

# as their reports
TEAMS = (narrow_resnet, modified_resnet, learning_too_deep, dreamfire, neural_nomads)
_ZOO = Registry(*HOUSE, *(r for team in TEAMS for r in team.recipes))


def register(*recipes: Recipe, overwrite: bool = False):
    """Make `recipes` known in this process; a second one under a name and variant is an
    `InputError`."""
    _ZOO.add(*recipes, overwrite=overwrite)


def list_recipes() -> list:
    "All recipes, by name and variant."
    return _ZOO.list()


def get_recipe(name: str, variant: str = 'report') -> Recipe:
    """The recipe `name`, as its report describes it ('report') or as the team's public code ran it
    ('code'); unknown names raise `InputError` and suggest near ones. 'VARIANT:OTHER' trains the
    network of the recipe OTHER in its place, say 'code:resnet18'."""
    variant, _, other = variant.partition(':')
    recipe = _ZOO.get(name, variant)
    return recipe if not other else replace(recipe, net=_ZOO.get(other, 'report').net, title='',
                                            name=f'{name} with {other}', claims=())


def address(name: str, variant: str = 'report') -> tuple:
    """By which name and variant `get_recipe` knows the recipe that calls itself `name`, also with
    the network of another: ('quick with resnet18', 'report') is ('quick', 'report:resnet18')."""
    base, joined, other = name.rpartition(' with ')
    if not joined or any(r.name == name for r in list_recipes()): return name, variant
    return base, f'{variant}:{other}'


def known_as(name: str, variant: str = 'report') -> Recipe:
    """The recipe that calls itself `name`, also with the network of another; `InputError` as from
    `get_recipe`."""
    return get_recipe(*address(name, variant))


def base_of(recipe: Recipe) -> Recipe | None:
    """The recipe of the registry that `recipe` has its name from: quick for 'quick' and for 'quick,
    lr=0.05'; None without one."""
    for name in (recipe.name, recipe.name.split(', ')[0]):
        try: return known_as(name, recipe.variant)
        except InputError: continue
    return None


def todays(records: list) -> list:
    """Those of `records` (of runs) that trained what the recipe of their name and variant says
    today: a name alone promises nothing."""
    def recipe(m):
        try: return trained(known_as(m['name'], m['variant']))
        except InputError: return None
    return [r for r in records if r['manifest']['recipe'] == recipe(r['manifest'])]
