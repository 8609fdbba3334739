"The command `cifar_nb` as a process: also `python -m cifar_nb`, `torchrun ... -m cifar_nb`."
import os
import sys


def prepare():
    "What only a process may decide for itself: how it draws, and how it writes odd letters."
    os.environ['MPLBACKEND'] = 'Agg'  # to files; a notebook's own may be set and not be here
    for stream in (sys.stdout, sys.stderr):
        if not _shows_all(stream): stream.reconfigure(errors='replace')


def _shows_all(stream) -> bool:
    "Whether writing to `stream` cannot fail for its letters, or cannot be changed."
    if getattr(stream, 'errors', None) == 'surrogateescape': return 'utf' in stream.encoding.lower()
    return getattr(stream, 'errors', None) != 'strict' or not hasattr(stream, 'reconfigure')


def main() -> int:
    """Run the command; its status. `cli.main` tells of a Ctrl-C; one that comes before it listens,
    or while it tells, ends the process without a word."""
    try:
        prepare()
        from .cli import main
        return main()
    except KeyboardInterrupt: return 130


if __name__ == '__main__': raise SystemExit(main())
