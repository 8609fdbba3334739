"""The command as a process that does not import PyTorch first: `start` forks it from one that has.

A process is forked before anything of the package is imported, and sees the arguments, folder,
variables and streams that it was given, as a new Python would; only the seed of its hashes and
what PyTorch and matplotlib read when they are imported are its parent's. Where there is no fork
worth having it is a new Python.
"""
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = "import sys; from cifar_nb.cli import main; sys.exit(main())"
FORKS = sys.platform.startswith("linux")
_parent = None


class Forked:
    "What `subprocess.Popen` is, as far as the tests need it."

    def __init__(self, argv, cwd, env, new_session=False):
        (self.out, out), (self.err, err) = os.pipe(), os.pipe()
        self.returncode, self.read = None, {}
        self.socket, theirs = socket.socketpair()
        asked = dict(argv=argv, cwd=str(cwd), env=env, session=new_session)
        asked = json.dumps(asked).encode("utf-8")
        socket.send_fds(_line(), [b"."], [theirs.fileno(), out, err])
        theirs.close()
        self.socket.sendall(len(asked).to_bytes(4, "big") + asked)
        os.close(out)
        os.close(err)
        self.pid = self._number()
        self.readers = [threading.Thread(target=self._drain, args=(fd,), daemon=True)
                        for fd in (self.out, self.err)]
        for r in self.readers: r.start()

    def _number(self):
        got = self.socket.recv(4, socket.MSG_WAITALL)
        # nothing would read as 0: as success, and as the number of our own group to a kill
        if len(got) < 4: raise RuntimeError("the process that forks has ended")
        return int.from_bytes(got, "big", signed=True)

    def _drain(self, fd):
        with open(fd, encoding="utf-8") as f: self.read[fd] = f.read()

    def poll(self):
        if self.returncode is None and select.select([self.socket], [], [], 0)[0]:
            self.returncode = self._number()
        return self.returncode

    def wait(self, timeout=None):
        end = time.time() + (1e9 if timeout is None else timeout)
        while self.poll() is None:
            if time.time() > end: raise subprocess.TimeoutExpired("cifar_nb", timeout)
            time.sleep(.005)
        return self.returncode

    def communicate(self, timeout=None):
        self.wait(timeout)
        for r in self.readers:
            r.join(timeout)
            if r.is_alive(): raise subprocess.TimeoutExpired("cifar_nb", timeout)
        return self.read[self.out], self.read[self.err]

    def send_signal(self, signum):
        if self.poll() is None: os.kill(self.pid, signum)

    def kill(self): self.send_signal(signal.SIGKILL)


def _line():
    "The end to ask at; the process that forks ends with the one that first asks for it."
    global _parent
    if not _parent:
        ours, theirs = socket.socketpair()
        p = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())],
                             stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                             env=os.environ | {"OMP_NUM_THREADS": "1"})
        theirs.close()
        _parent = p, ours
    return _parent[1]


def start(*argv, cwd, env, start_new_session=False, **kwargs):
    "The command with `argv`, begun in the folder `cwd` with the variables `env`."
    argv = [str(a) for a in argv]
    if FORKS and not kwargs: return Forked(argv, cwd, env, start_new_session)
    return subprocess.Popen([sys.executable, "-c", CODE, *argv], cwd=cwd, env=env, text=True,
                            encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            start_new_session=start_new_session, **kwargs)


# -- the process that forks

def serve(line):
    "Fork for everybody who asks; returns in the fork, with what was asked for."
    running = {}
    while True:
        ready = select.select([line], [], [], .01)[0]
        for pid, conn in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done: continue
            try: conn.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
            except OSError: pass  # nobody waits any more
            running.pop(pid).close()
        if not ready: continue
        asks, fds, *_ = socket.recv_fds(line, 1, 3)
        if not asks:  # whoever needed it has ended
            for pid in running: os.kill(pid, signal.SIGKILL)
            os._exit(0)
        conn, streams = socket.socket(fileno=fds[0]), fds[1:]
        length = int.from_bytes(conn.recv(4, socket.MSG_WAITALL), "big")
        asked = json.loads(conn.recv(length, socket.MSG_WAITALL))
        if not (pid := os.fork()):
            for s in (line, conn, *running.values()): s.close()
            return asked, streams
        running[pid] = conn
        conn.sendall(pid.to_bytes(4, "big", signed=True))
        for fd in streams: os.close(fd)


def become(asked, streams):
    "Be the process that was asked for."
    if asked["session"]: os.setsid()
    for fd, place in (os.open(os.devnull, os.O_RDONLY), 0), (streams[0], 1), (streams[1], 2):
        os.dup2(fd, place)
        os.close(fd)
    sys.stdin = open(0, closefd=False, encoding="utf-8")
    sys.stdout = open(1, "w", closefd=False, encoding="utf-8")
    sys.stderr = open(2, "w", closefd=False, buffering=1, encoding="utf-8",
                      errors="backslashreplace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    sys.argv = ["-c", *asked["argv"]]
    sys.path[:1] = ["", *filter(None, asked["env"].get("PYTHONPATH", "").split(os.pathsep))]


if __name__ == "__main__":
    import matplotlib.pyplot  # noqa: F401
    import torch._dynamo  # noqa: F401 (PyTorch imports it with the first optimizer)
    become(*serve(socket.socket(fileno=int(sys.argv[1]))))
    from cifar_nb.cli import main
    sys.exit(main())
