"""Plain module: the one exception for mistakes of a call or of an input, and names that are
checked."""
import difflib
import sys

__all__ = ['InputError', 'Diverged', 'missing', 'lacks_memory', 'check_choice']


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


def lacks_memory(e: Exception) -> bool:
    "Whether `e` says that memory is used up: Python's, or PyTorch's on the CPU or a GPU."
    said = f'{e}'
    return isinstance(e, MemoryError) or 'DefaultCPUAllocator' in said or 'out of memory' in said


def check_choice(what, given, known, others=None, listed=''):
    """Raise `InputError` unless `given` is in `known` (names), suggesting a near one, or that for
    which it is another name in `others`; `what` says what they are names of. Where they are too
    many for a sentence `listed` says where they stand, and up to three near ones are suggested."""
    if given in known: return
    names, text = {str(k).lower(): k for k in known}, str(given).lower()
    meant = (others or {}).get(text)
    many = dict(n=3, cutoff=.6) if listed else dict(n=1, cutoff=.5)
    near = [meant] if meant in known else [
        names[n] for n in difflib.get_close_matches(text, names, **many)]
    hint = (f'did you mean {_either(near)}?' if near
            else listed or f'choose one of {", ".join(known)}.')
    raise InputError(f'There is no {what} {given!r}; {hint}')


def _either(names: list) -> str:
    "'a', 'a or b', 'a, b or c'."
    return ' or '.join(filter(None, [', '.join(map(str, names[:-1])), str(names[-1])]))
