"""Plain module: signals that stop a training after it was saved. Tests: tests/test_training.py,
tests/test_faults.py."""
import signal
import threading
from contextlib import contextmanager

__all__ = ['Interrupted', 'noting_signals']


class Interrupted(KeyboardInterrupt):
    "Training was stopped by the signal `signum`, after saving."
    def __init__(self, message, signum): super().__init__(message); self.signum = signum

@contextmanager
def noting_signals():
    """Collect SIGINT, SIGTERM and SIGHUP (a closed terminal) in the list that is yielded; the
    second one interrupts at once. One that is ignored, as by nohup, stays so."""
    caught = []
    def note(signum, frame):
        if caught: raise KeyboardInterrupt
        caught.append(signum)
    main = threading.current_thread() is threading.main_thread()
    known = [signal.SIGINT, signal.SIGTERM, *filter(None, [getattr(signal, 'SIGHUP', None)])]
    wanted = [s for s in known if s == signal.SIGINT or signal.getsignal(s) is not signal.SIG_IGN]
    old = {s: signal.signal(s, note) for s in wanted} if main else {}
    try: yield caught
    finally:
        for s, handler in old.items(): signal.signal(s, handler)
