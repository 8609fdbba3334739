"""Plain module: the command `cifar_nb`. What needs torch is imported once the arguments were
understood, so that --help, --version and a mistake in the call answer at once. It stands here and
not in a module of its own, since scripts that were installed before call `cifar_nb.cli.main`.

Tests: tests/test_cli.py, tests/test_main.py.
"""
import os
import sys

from ..core.errors import InputError, lacks_memory
from .arguments import parser

__all__ = ['main']


def main(argv: list | None = None) -> int:
    """Run the command; 0 on success, 2 on a mistake of the call or the input, told in one line on
    stderr, 130 after Ctrl-C (143 after SIGTERM)."""
    try:
        a = parser().parse_args(argv)
        _run(a)
        return 0
    except InputError as e: status, message = 2, f'{e}'
    except KeyboardInterrupt as e:
        signum = getattr(e, 'signum', None)  # of training.Interrupted, which has saved
        if signum and not _speaks(): return 0  # torchrun would end the first before it has spoken
        status, message = (130, 'interrupted') if signum is None else (128 + signum, f'{e}')
    except BrokenPipeError:  # our reader has gone, as in `cifar_nb recipes | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as e:  # the system refused a file
        status, message = 2, (f'{e.filename or "a file"} cannot be used ({e.strerror or e}): '
                              'look at its permissions and at the space that is left.')
    except (MemoryError, RuntimeError) as e:
        if not lacks_memory(e): raise
        status, message = 2, ('there is too little memory for this: choose a smaller batch_size or '
                              'micro_batch, or a smaller network.')
    print(f'cifar_nb: {" ".join(message.split())}', file=sys.stderr)
    return status


def _run(a):
    from ..training.distributed import first_prints
    from . import commands
    with first_prints(): getattr(commands, f'cmd_{a.command}')(a)


def _speaks() -> bool:
    from ..training.distributed import asked
    return asked().first
