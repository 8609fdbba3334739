"""Plain module: recipes by name and variant, of which none replaces another unasked.

Tests: tests/test_recipes.py, chapter 60.
"""
from ..core.errors import InputError, check_choice
from .spec import Recipe

__all__ = ['Registry']


class Registry:
    "Recipes by name and variant."
    def __init__(self, *recipes: Recipe):
        self._known: dict = {}
        self.add(*recipes)

    def add(self, *recipes: Recipe, overwrite: bool = False):
        """Make `recipes` known; another recipe under a known name and variant is an `InputError`
        unless it may `overwrite`."""
        for r in recipes:
            known = self._known.setdefault(r.name, {})
            if not overwrite and known.get(r.variant, r) != r:
                raise InputError(f'Another recipe is called {r.name} ({r.variant}) already: give '
                                 'yours a name of its own.')
            known[r.variant] = r

    def list(self) -> list:
        "All of them, by name and variant."
        return [r for name in sorted(self._known)
                for _, r in sorted(self._known[name].items(), reverse=True)]

    def get(
        self,
        name: str,
        # 'report': as described, completed by the code; 'code': as the public code ran it
        variant: str = 'report',
    ) -> Recipe:
        "The recipe `name`; unknown names raise `InputError` and suggest near ones."
        check_choice('recipe', name, sorted(self._known))
        check_choice(f'variant of {name} called', variant, self._known[name])
        return self._known[name][variant]
