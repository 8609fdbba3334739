"""Plain module: a training's log as it grows in TensorBoard or Trackio, besides log.jsonl.

A logger is a callback of `train`: it is called with the line of every epoch. The packages belong to
the extra `log` and are imported when a logger is asked for. Tests: tests/test_change.py.
"""
from contextlib import contextmanager
from pathlib import Path

from ..core.errors import check_choice, missing
from ..core.manifest import read_manifest

__all__ = ['LOGGERS', 'logger', 'logging_to']


def _tensorboard():
    """Curves in the folder `tensorboard` of a run, for `tensorboard --logdir runs`."""
    from torch.utils.tensorboard import SummaryWriter
    def begin(out: Path, m: dict):
        writer = SummaryWriter(str(out / 'tensorboard'))
        def write(line):
            for k, v in line.items():
                if k != 'epoch': writer.add_scalar(k, v, line['epoch'])
            writer.flush()
        return write, writer.close
    return begin


def _trackio():
    """Runs of the project cifar_nb, for `trackio show`; each is called after its folder and by the
    run's own name, so that two folders of one name stay apart."""
    import trackio
    def begin(out: Path, m: dict):
        about = {k: m[k] for k in ('name', 'variant', 'seed', 'precision', 'differs') if k in m}
        run = trackio.init(project='cifar_nb', name=f'{out.name}-{m["run"]}', config=about,
                           resume='allow')
        def write(line):
            run.log({k: v for k, v in line.items() if k != 'epoch'}, step=line['epoch'])
        return write, run.finish
    return begin


# what imports the package, and gives what begins to log: (folder, manifest) to (write, close)
LOGGERS = dict(tensorboard=_tensorboard, trackio=_trackio)


def logger(name: str):
    """The logger `name` for `logging_to`; `InputError` where its package is missing, so ask for it
    before the training."""
    check_choice('logger', name, tuple(LOGGERS))
    try: return LOGGERS[name]()
    except ImportError: raise missing(name) from None


@contextmanager
def logging_to(begin, out, say=print):
    """The callback of `train` that writes to the logger `begin` of `logger` about the run in the
    folder `out`, closed at the end of the block; None for no logger."""
    if begin is None:
        yield None
        return
    begun = []
    def callback(line):
        # not before: the folder is the training's, which writes its manifest first
        if not begun: begun.extend(begin(Path(out), read_manifest(Path(out) / 'manifest.json')))
        begun[0](line)
    try: yield callback
    finally:
        try:
            if begun: begun[1]()
        except Exception as e:
            say(f'The logger could not be closed ({type(e).__name__}: {e}).')
