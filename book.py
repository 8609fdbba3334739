#!/usr/bin/env python3
"""The book's own commands. Each one sets up what it needs in .venv; Python 3.10 or newer will do.

    python3 book.py train [ARGS]     train and evaluate a network (default: the recipe `quick`)
    python3 book.py test             every check that a change must pass; `test --quick` leaves out
                                     the chapters
    python3 book.py lab              open the book in JupyterLab, in copies of your own (work/);
                                     `lab --edit` opens the chapters themselves
    python3 book.py run COMMAND ...  anything else in the environment, e.g. `run cifar_nb recipes`
    python3 book.py prepare          after an edit: export, clean, rebuild README and kaggle/

On Windows write `py` for `python3`. `train --help` lists what `train` takes.
On Linux without an NVIDIA driver PyTorch is installed in its builds for the processor, which are
several times smaller; `--gpu` after the command's name takes the others.
"""
import errno
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMPS = {True: VENV / "set-up-dev", False: VENV / "set-up"}  # with and without the tools
UNFINISHED = VENV / "unfinished"  # there while pip works: what a killed pip leaves is not whole
LOCK = ROOT / ".venv.lock"
HERE = hashlib.sha256(os.fsencode(ROOT)).hexdigest()  # scripts in .venv know their folder by name
SHEETS = ROOT.parent / "shared" / "cifar10" / "restore.py"  # a lossless copy of CIFAR-10, if any
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"  # PyTorch's own index of them
# GB on the disk by (build, with the tools): measured on Linux with Python 3.11 and torch 2.14; for
# the processor the same with the files of its wheel of 2.13 for torch, triton and NVIDIA's packages
ON_DISK = {("cpu", False): 1.1, ("cpu", True): 1.7, ("gpu", False): 5.6, ("gpu", True): 6.3}
# GB that pip downloads for them, where it was measured (Python 3.11, torch 2.14); about half
DOWNLOADS = {("gpu", False): 3.1, ("gpu", True): 3.3}
DRIVERS = ("/proc/driver/nvidia/version", "/usr/lib/wsl/lib/nvidia-smi", "/dev/nvidiactl")
THIS = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
TYPED = "py book.py" if os.name == "nt" else "python3 book.py"
HELP = ("-h", "--help")
PROBE = "import sys, pip; sys.exit(sys.prefix == sys.base_prefix)"  # 0 in an environment with pip
NOT_FOR_PIP = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
NO_VENV = (f"this {THIS} comes without the modules venv and ensurepip. Install them (on Debian and "
           f"Ubuntu: `sudo apt install python{THIS[7:]}-venv`)")
CAUSES = (  # what pip writes, what is the matter, and whether something may be half installed
    (r"No space left|Errno 28|not enough space on the disk|quota exceeded",
     "the disk is full. Make room: PyTorch needs some GB, here and for temporary files", True),
    (r"Errno (13|30)\b|Permission denied|Access is denied|Read-only file system",
     "a folder that the lines above name cannot be written to. Make it writable", True),
    (r"CERTIFICATE_VERIFY_FAILED|SSLError|certificate verify",
     "the certificate of the package index is not trusted. Look at the clock and the proxy", False),
    (r"connection broken by|Max retries exceeded|ConnectionError|Connection aborted|timed out"
     r"|(Read|Connect)Timeout|ProxyError|name resolution|getaddrinfo|unreachable|IncompleteRead",
     "the package index cannot be reached. Look at the network", False),
    (r"[45]\d\d (Client|Server) Error|HTTP error",
     "the package index refuses what is asked for. Look at pip's settings, or wait a while", False),
    (r"different Python|from versions: \d|ResolutionImpossible",
     f"the package index has no version that fits {THIS} on this system. "
     "Try another Python (3.10 to 3.13)", False),
    (r"No matching distribution|Could not find a version",
     f"the package index cannot be reached, or has nothing for {THIS} on this system. "
     "Look at the network, try another Python (3.10 to 3.13)", False),
    (r"No module named .?(ensurepip|venv)|ensurepip is (not available|disabled)", NO_VENV, True),
    (r"DO NOT MATCH THE HASHES", "what was downloaded is damaged", False),
    (r"subprocess-exited-with-error|metadata-generation-failed",
     "a package cannot be built; the lines above say why. Mend that", False))


GPU = False  # whether PyTorch's builds for a GPU are asked for


def say(text): print(f"book: {text}", flush=True)


def stop(text): sys.exit(f"book: {text}")


def fail(what, why): stop(f"{what}: {why}. Then run the same command again.")


def call(*argv, **kwargs):
    "Run a program in the project's folder, to its end; where it fails, stop with its status."
    try: p = subprocess.Popen([str(a) for a in argv], cwd=ROOT, **kwargs)
    except OSError as e: stop(f"{argv[0]} cannot be run ({e.strerror}).")
    try: status = p.wait()
    except BaseException: end(p); raise
    if status: sys.exit(status if status > 0 else 128 - status)


def end(p):
    "End the program `p`: let it clean up, but not for long."
    if os.name != "nt": p.send_signal(signal.SIGINT)  # the console of Windows has told it too
    try: p.wait(10)
    except BaseException: p.kill(); p.wait(); raise


def become(*argv):
    "Let a program take the place of this one: Ctrl-C, other signals and the status are its own."
    if os.name == "nt":
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the console tells the program too
        return call(*argv)
    os.chdir(ROOT)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it; the program may not want to
    try: os.execvp(str(argv[0]), [str(a) for a in argv])
    except OSError as e: stop(f"{argv[0]} cannot be run ({e.strerror}).")


def tool(name): return BIN / (f"{name}.exe" if os.name == "nt" else name)


def taken(file):
    "Whether the lock on `file` is ours now, or there are no locks here and so no waiting."
    try:
        if os.name == "nt":
            import msvcrt
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e: return e.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


@contextmanager
def alone():
    "One set-up at a time; the lock is free when this process and the pip that it began have ended."
    try: file = open(LOCK, "ab")
    except OSError: yield; return  # nobody can set up anything here: what is written next will tell
    with file:
        if not taken(file):
            say("another set-up is at work in this folder; waiting for it")
            while not taken(file): time.sleep(.3)
        yield file


def runs(*argv):
    "Whether the Python of .venv is there and runs this without a mistake."
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try: return subprocess.run([str(PYTHON), "-I", *argv], cwd=ROOT, **quiet).returncode == 0
    except OSError: return False


def lines_of(file):
    "The lines of a stamp; none where there is none."
    try: return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError: return []


def wanted():
    "What must be installed, in short."
    texts = [(ROOT / f).read_bytes() for f in ("settings.ini", "setup.py", "constraints.txt")]
    return hashlib.sha256(b"".join(texts).replace(b"\r\n", b"\n")).hexdigest()


def stamp(dev):
    "What the stamp says was installed, and where."
    what, where = (*lines_of(STAMPS[dev]), "", "")[:2]
    return what, where or HERE


def torch_wanted():
    "What settings.ini asks of PyTorch, say ['torch>=2.4', 'torchvision>=0.19']."
    line = re.search(r"^requirements *=(.*)", "\n".join(lines_of(ROOT / "settings.ini")), re.M)
    return [r for r in line[1].split() if re.match(r"torch(vision)?\b", r)] if line else []


def installed_build():
    "For what the PyTorch in .venv was built: 'cpu' or 'gpu'; empty where nobody wrote it down."
    return next((kind[2] for dev in (True, False) if len(kind := lines_of(STAMPS[dev])) > 2), "")


def is_intel_mac():
    "Whether this Python is one for Macs with Intel processors."
    return sys.platform == "darwin" and platform.machine() == "x86_64"


def build_for(asked):
    """For what PyTorch is to be installed: 'gpu' where that is `asked` or a driver is there, else
    'cpu'; empty off Linux, where the index has one kind only."""
    if not sys.platform.startswith("linux"): return ""
    driver = shutil.which("nvidia-smi") or any(map(os.path.exists, DRIVERS))
    return "gpu" if asked or driver else "cpu"


def reached(url):
    "Whether something answers at `url`, within some seconds."
    try:
        with urllib.request.urlopen(url, timeout=8): return True
    except (OSError, ValueError): return False


def other_build():
    "Whether the builds for a GPU are asked for, and .venv has those for the processor."
    return GPU and installed_build() == "cpu"


def ready(dev):
    "Whether all is installed, with `dev` also the tools."
    if other_build(): return False
    whole = (wanted(), HERE) in [stamp(kind) for kind in {True, dev}]
    return whole and not UNFINISHED.exists() and runs("-c", PROBE)


def spoiled():
    "Why .venv must be made again; nothing if pip can go on in it."
    if not VENV.exists(): return "it leads nowhere"
    if UNFINISHED.exists(): return "an earlier installation was broken off"
    if {stamp(True)[1], stamp(False)[1]} != {HERE}: return "its folder was moved"
    if other_build(): return "its PyTorch was built for the processor"
    works = runs("-c", PROBE) and runs("-m", "pip", "install", "--help")
    return "" if works else "it has no working Python with pip"


def listen(lock, *argv, show=True):
    "Run a part of the set-up and `show` its lines: its status and text. It shares the `lock`."
    env = {k: v for k, v in os.environ.items() if k not in NOT_FOR_PIP}
    more = {"pass_fds": [lock.fileno()]} if lock and os.name != "nt" else {}
    p = subprocess.Popen([str(a) for a in argv], cwd=ROOT, env=env | {"PYTHONIOENCODING": "utf-8"},
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         encoding="utf-8", errors="replace", **more)
    text = ""
    try:
        for line in p.stdout:
            if show: tell(line)
            text += line
        return p.wait(), text
    except BaseException: end(p); raise


QUIET = re.compile(
    r"\s*($|Collecting|Requirement already|Looking in|Using cached|Downloading .*\.metadata"
    r"|Obtaining|Preparing|Getting req|Checking if|Building (editable|wheels)|Created|Stored in"
    r"|Installing b|Processing|WARNING: Location|━|Attempting|Found existing|Uninstalling"
    r"|Successfully|\[notice\])")

def tell(line):
    "Show a line of pip, unless it is one of the many that tell nothing."
    if part := re.match(r"Progress (\d+) of (\d+)$", line):
        done, total = map(int, part.groups())
        if sys.stdout.isatty() and total:
            end = "\r" if done < total else "\r" + " " * 40 + "\r"
            print(f"   {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", end=end, flush=True)
    elif not QUIET.match(line):
        print(line if len(line) < 160 else line[:150] + " ...\n", end="", flush=True)


def make(lock):
    "A fresh .venv with pip."
    if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        fail(".venv cannot be made", NO_VENV)
    import venv
    try:
        if VENV.is_symlink() or VENV.is_file(): VENV.unlink()
        venv.create(VENV, clear=True, symlinks=os.name != "nt")
        UNFINISHED.touch()
    except (OSError, ValueError, subprocess.SubprocessError) as e:
        why = "the disk is full" if getattr(e, "errno", 0) == errno.ENOSPC else e
        fail(".venv cannot be made", f"{why}. Mend that")
    ensurepip = [PYTHON, "-m", "ensurepip", "--upgrade", "--default-pip"]
    status, text = listen(lock, *ensurepip, show=False)
    if status:
        print(text, end="", flush=True)
        fail("pip cannot be put into .venv", cause(status, text)[0])


def cause(status, text):
    "Why pip failed, as part of a sentence, and whether it may have left something half installed."
    if status < 0: return f"pip was ended by signal {-status}. Look whether memory is short", True
    known = [c[1:] for c in CAUSES if re.search(c[0], text, re.IGNORECASE)]
    return known[0] if known else ("the lines above say why. Mend that", True)


def install(dev, lock):
    "Install the package into .venv, and with `dev` the tools; the stamp is written last."
    why, build = spoiled(), build_for(GPU)
    sites = (*VENV.glob("lib/*/site-packages"), VENV / "Lib" / "site-packages")
    has_torch = not why and any((p / "torch").exists() for p in sites)
    room = []
    if not has_torch and torch_wanted() and is_intel_mac():
        stop("PyTorch has no builds of 2.4 or newer for Macs with Intel processors. Use Colab or "
             "Kaggle; on a Mac with an Apple processor install a Python that is built for it.")
    if not has_torch: room = make_sure_of_room(dev, build)
    else: say("installing into .venv")
    if why:
        if os.path.lexists(VENV): say(f".venv is made again: {why}")
        make(lock)
    UNFINISHED.touch()
    pip = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *progress(), *room]
    if has_torch: build = installed_build()
    elif build == "cpu" and torch_wanted():
        build = install_for_cpu(lock, pip)
        if not build: pip += make_sure_of_room(dev, "gpu")  # the ordinary index has larger ones
    status, text = listen(lock, *pip, "--constraint", "constraints.txt", "--editable",
                          ".[dev]" if dev else ".")
    why, halves = cause(status, text) if status else ("", False)
    if not halves: UNFINISHED.unlink()
    if status: fail("the installation failed", why)
    fresh = STAMPS[dev].with_suffix(".new")
    fresh.write_text(f"{wanted()}\n{HERE}\n{build}\n", encoding="utf-8")
    os.replace(fresh, STAMPS[dev])


def progress():
    "The argument that lets pip say how much of a file it has, where this pip can."
    try:
        out = subprocess.run([str(PYTHON), "-I", "-m", "pip", "install", "--help"], cwd=ROOT,
                             capture_output=True, encoding="utf-8", errors="replace").stdout
    except OSError: return []
    known = re.search(r"--progress-bar .*?\[(.*?)\]", out, re.S)
    return ["--progress-bar", "raw"] if known and "raw" in known[1] else []


def free_in(folder):
    "GB that are free where `folder` lies; no limit where the system does not tell."
    try: return shutil.disk_usage(folder).free / 1e9
    except OSError: return float("inf")


def same_disk(one, other):
    "Whether two folders lie on one file system, as far as the system tells."
    try: return os.stat(one).st_dev == os.stat(other).st_dev
    except OSError: return True


def make_sure_of_room(dev, build):
    """Say how large what comes is; where the disk has no room for it and for pip's downloads
    meanwhile, stop. The arguments that pip needs: none, or those that spare its cache."""
    if not torch_wanted(): say("installing into .venv"); return []
    need, known = ON_DISK[build or "cpu", dev], DOWNLOADS.get((build, dev))
    kind = {"cpu": "PyTorch's builds for the processor (`--gpu`: those for NVIDIA cards, "
                   f"{ON_DISK['gpu', dev]} GB)",
            "gpu": "PyTorch's builds for NVIDIA cards", "": "PyTorch"}[build]
    say(f"installing into .venv, the first time some minutes: {kind} and the rest take some "
        f"{need} GB of the disk" + (f", and {known} GB are downloaded for it" if known else ""))
    load, temp = known or need / 2, tempfile.gettempdir()
    here = same_disk(ROOT, temp)
    total = need + load * here
    if (free := free_in(ROOT)) < total:
        fail("there is no room", f"{free:.1f} GB of the disk are free, and {total:.1f} GB are "
             f"needed: {need} GB for .venv" + (f" and {load:.1f} GB meanwhile for what pip "
             f"downloads. Make room, or let TMPDIR name a folder on another disk" if here
                                               else ". Make room"))
    if not here and (free := free_in(temp)) < load:
        fail("there is no room", f"pip puts some {load:.1f} GB of downloads into {temp}, where "
             f"{free:.1f} GB are free. Make room, or let TMPDIR name a folder elsewhere")
    return cache_or_not(temp, total, load)


def cache_or_not(temp, total, load):
    "What tells pip to keep no second copy of its downloads, if there is no room for one."
    names = "PIP_CACHE_DIR", "XDG_CACHE_HOME"
    cache = next(filter(None, map(os.environ.get, names)), os.path.expanduser("~"))
    taken = total if same_disk(cache, ROOT) else load if same_disk(cache, temp) else 0
    if free_in(cache) - taken >= load: return []
    say("pip keeps no copies of its downloads this time: its cache would fill the disk")
    return ["--no-cache-dir"]


def install_for_cpu(lock, pip):
    "Install PyTorch's builds for the processor; 'cpu', or '' where its index gave none."
    if not reached(f"{CPU_BUILDS}/torchvision/"):
        say(f"PyTorch's index of builds for the processor cannot be reached ({CPU_BUILDS}); the "
            "ordinary builds are taken, which on Linux are those for NVIDIA cards and much larger")
        return ""
    status, text = listen(lock, *pip, "--index-url", CPU_BUILDS, *torch_wanted())
    if not status: return "cpu"
    why, halves = cause(status, text)
    if halves: fail("the installation failed", why)
    say(f"PyTorch's builds for the processor cannot be had ({why.split('.')[0]}); the ordinary "
        "ones are taken")
    return ""


def set_up(dev):
    "Make .venv and install the package, and with `dev` the tools, if that has not been done."
    if ready(dev) and not to_restore(): return
    with alone() as lock:
        if not ready(dev):
            try: install(dev, lock)
            except OSError as e:
                fail(f"{e.filename or VENV} cannot be written", f"{e.strerror}. Mend that")
        if cache := to_restore():
            say("restoring CIFAR-10 from the lossless copy beside this folder")
            listen(lock, PYTHON, SHEETS, cache, show=False)


def to_restore():
    "The folder that the lossless copy of CIFAR-10 belongs into, if there is one to be put there."
    if not SHEETS.exists() or "CIFAR_NB_DATA" in os.environ: return None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    cache = Path(os.environ.get("CIFAR_NB_CACHE") or os.path.join(base, "cifar_nb"))
    batches = cache / "cifar-10-batches-py"
    there = (batches / "test_batch").exists() and (batches / "batches.meta").exists()
    return None if there else cache


def train(*argv):
    if {*HELP} & {*argv}:  # this part of the package needs no other
        return become(sys.executable, "-m", "cifar_nb", "train", "--help")
    set_up(dev=False)
    recipe = () if argv and not argv[0].startswith("-") else ("quick",)
    become(PYTHON, "-m", "cifar_nb", "train", *recipe, *argv)


def lab(*argv):
    "Open copies of the chapters, or with `--edit` the chapters themselves."
    set_up(dev=True)
    if edit := argv[:1] == ("--edit",):
        paths = [str(ROOT / "tools" / "jupyter"), os.environ.get("JUPYTER_CONFIG_PATH")]
        os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, paths))
    else: call(PYTHON, "tools/copies.py")
    first = ("nbs/00_start.ipynb" if edit else "work/00_start.ipynb",)
    become(PYTHON, "-m", "jupyter", "lab", *(argv[edit:] or first))


def run(*argv):
    if not argv: stop(f"name a command to run, e.g. `{TYPED} run cifar_nb recipes`.")
    set_up(dev=True)
    become(tool(argv[0]) if tool(argv[0]).exists() else argv[0], *argv[1:])


def refuse(command, words):
    "Stop at the first of the `words` that `command` does not know."
    if words: stop(f"`{command}` does not know {words[0]!r}; `{TYPED} --help` says what it takes.")


def test(*argv):
    refuse("test", [word for word in argv if word != "--quick"])
    set_up(dev=True)
    become(PYTHON, "tools/checks.py", *argv)


def prepare(*argv):
    refuse("prepare", argv)
    set_up(dev=True)
    for command in ("nbdev_export", "nbdev_clean"): call(tool(command))
    call(PYTHON, "-m", "cifar_nb", "kaggle", "build")
    for script in ("tools/alts.py", "tools/badges.py", "tools/readme.py"): call(PYTHON, script)


def main():
    for stream in (sys.stdout, sys.stderr): stream.reconfigure(errors="replace")
    commands = dict(train=train, test=test, lab=lab, run=run, prepare=prepare)
    first, second = (*sys.argv[1:3], "", "")[:2]
    if first not in commands or first != "train" and second in HELP:
        print(__doc__.strip())
        sys.exit(0 if first in ("", *HELP, *commands) else 2)
    if sys.version_info < (3, 10): stop(f"Python 3.10 or newer is needed, and this is {THIS}.")
    global GPU
    if GPU := sys.argv[2:3] == ["--gpu"]: del sys.argv[2]
    try: commands[sys.argv[1]](*sys.argv[2:])
    except KeyboardInterrupt:
        print("\nbook: interrupted; the same command goes on.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__": main()
