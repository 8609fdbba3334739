"""The command as a process that does not import PyTorch first: `start` forks it from one that has.

A process is forked before anything of the package is imported, and sees the arguments, folder,
variables and streams that it was given, as a new Python would. Where there is no fork worth having
it is a new Python.
"""
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
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
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(_address())
        asked = dict(argv=argv, cwd=str(cwd), env=env, session=new_session)
        asked = json.dumps(asked).encode("utf-8")
        socket.send_fds(self.socket, [len(asked).to_bytes(4, "big")], [out, err])
        self.socket.sendall(asked)
        os.close(out)
        os.close(err)
        self.pid = self._number()
        self.readers = [threading.Thread(target=self._drain, args=(fd,), daemon=True)
                        for fd in (self.out, self.err)]
        for r in self.readers: r.start()

    def _number(self): return int.from_bytes(self.socket.recv(4, socket.MSG_WAITALL), "big",
                                             signed=True)

    def _drain(self, fd):
        with open(fd, encoding="utf-8") as f: self.read[fd] = f.read()

    def poll(self):
        if self.returncode is None and select.select([self.socket], [], [], 0)[0]:
            self.returncode = self._number()
        return self.returncode

    def wait(self, timeout=None):
        end = time.time() + (timeout or 1e9)
        while self.poll() is None:
            if time.time() > end: raise subprocess.TimeoutExpired("cifar_nb", timeout)
            time.sleep(.005)
        return self.returncode

    def communicate(self, timeout=None):
        self.wait(timeout)
        for r in self.readers: r.join(timeout)
        return self.read.get(self.out, ""), self.read.get(self.err, "")

    def send_signal(self, signum):
        if self.poll() is None: os.kill(self.pid, signum)

    def kill(self): self.send_signal(signal.SIGKILL)


def _address():
    "Where the process that forks listens; it ends with the one that first asks for it."
    global _parent
    if not _parent:
        place = Path(tempfile.mkdtemp(prefix="warm")) / "s"
        p = subprocess.Popen([sys.executable, __file__, place], stdin=subprocess.PIPE,
                             env=os.environ | {"OMP_NUM_THREADS": "1"})
        end = time.time() + 120
        while not place.exists() and time.time() < end: time.sleep(.01)
        _parent = p, str(place)
    return _parent[1]


def start(*argv, cwd, env, start_new_session=False, **kwargs):
    "The command with `argv`, begun in the folder `cwd` with the variables `env`."
    argv = [str(a) for a in argv]
    if FORKS and not kwargs: return Forked(argv, cwd, env, start_new_session)
    return subprocess.Popen([sys.executable, "-c", CODE, *argv], cwd=cwd, env=env, text=True,
                            encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            start_new_session=start_new_session, **kwargs)


# -- the process that forks

def serve(place):
    "Fork for everybody who asks; returns in the fork, with what was asked for."
    listener, running = socket.socket(socket.AF_UNIX), {}
    listener.bind(place)
    listener.listen()
    while True:
        ready = select.select([listener, sys.stdin], [], [], .01)[0]
        for pid, conn in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done: continue
            try: conn.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
            except OSError: pass  # nobody waits any more
            running.pop(pid).close()
        if sys.stdin in ready: os._exit(0)  # whoever needed it has ended
        if listener not in ready: continue
        conn = listener.accept()[0]
        length, streams, *_ = socket.recv_fds(conn, 4, 2)
        asked = json.loads(conn.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
        if not (pid := os.fork()):
            for s in (listener, conn, *running.values()): s.close()
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
    become(*serve(sys.argv[1]))
    from cifar_nb.cli import main
    sys.exit(main())
