"""Plain module: the one exception for mistakes of a call or of an input, and names that are
checked."""
import difflib
import sys

__all__ = ['InputError', 'Diverged', 'missing', 'check_choice']


class InputError(ValueError):
    """A mistake in a call or in an input, told in one sentence: what is wrong, where, and what to
    do."""


class Diverged(InputError):
    "The loss of a training, or a weight, is no longer a number."


def missing(package: str) -> InputError:
    """What to raise where `package` cannot be imported: the command installs it for the Python that
    runs this, in a clone and a notebook, too."""
    python = sys.executable or 'python'
    if ' ' in python: python = f'"{python}"'
    return InputError(f'{package} is not installed here: run `{python} -m pip install {package}`, '
                      'and try again.')


def check_choice(what, given, known):
    """Raise `InputError` unless `given` is in `known` (names), suggesting near ones; `what` says
    what they are names of."""
    if given in known: return
    names = {str(k).lower(): k for k in known}
    near = [names[n] for n in difflib.get_close_matches(str(given).lower(), names, n=1, cutoff=0.5)]
    hint = f'did you mean {" or ".join(near)}?' if near else f'choose one of {", ".join(known)}.'
    raise InputError(f'There is no {what} {given!r}; {hint}')
