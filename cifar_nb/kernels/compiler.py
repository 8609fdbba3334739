"""Plain module: C++ (csrc/) made into a shared library that is kept, and is loaded only as we wrote
it.

Whoever may write a library runs code as its users. So beside each lies its sha256, and the folder,
with all on the way to it, must be safe from others. For Linux. Tests: tests/test_compiler.py.
"""
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path

import torch

from ..core.errors import InputError
from ..core.files import locked
from ..data.cifar import cache_folder

__all__ = ['source', 'excerpt', 'kernel_library', 'load_kernel', 'compiler', 'distrust',
           'compiled_library']

FLAGS = ['-O3', '-march=native', '-std=c++20', '-fopenmp', '-fPIC', '-shared', '-Wno-psabi']


def _text(name: str) -> str:
    return files(__package__).joinpath('csrc', name).read_text(encoding='utf-8')


def source(name: str) -> str:
    "The C++ of the kernel `name` ('winograd', 'fused_norm'), with its include from csrc/ put in."
    include = '#include "vectors.h"\n'
    return _text(f'{name}.cpp').replace(include, _text('vectors.h'))


def excerpt(file: str, section: str) -> str:
    "The part of csrc/`file` that begins with the comment [`section`]."
    _, found, rest = _text(file).partition(f'// [{section}]\n')
    if not found: raise InputError(f'csrc/{file} has no section [{section}].')
    return rest.partition('\n// [')[0].strip('\n')


def _command() -> tuple:
    "Flags of the compiler and of the linker for an extension of the PyTorch that is here."
    home = Path(torch.__file__).parent
    abi = f'-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}'
    return [*FLAGS, abi, f'-I{home / "include"}', f'-L{home / "lib"}'], ['-ltorch_cpu', '-lc10']


def kernel_library(name: str) -> Path:
    """The kernel `name` as a shared library in the cache folder, compiled where that has not been
    done for this machine and this PyTorch; RuntimeError if it cannot be."""
    gomp = Path(torch.__file__).parent / 'lib' / 'libgomp.so.1'
    if platform.system() != 'Linux' or not gomp.exists():
        raise RuntimeError('this system, or its PyTorch, has no OpenMP of GCC that a kernel could '
                           'share')
    folder = cache_folder() / 'kernels'
    return compiled_library(name, source(name), *_command(), folder, [torch.__version__])


def load_kernel(name: str) -> str:
    "Give PyTorch the operations of the kernel `name`: an empty word, or why it cannot be."
    if os.environ.get('CIFAR_NB_KERNEL') == 'off': return 'CIFAR_NB_KERNEL is off'
    try: torch.ops.load_library(str(kernel_library(name)))
    except (OSError, RuntimeError) as e: return (str(e) or type(e).__name__).splitlines()[0]
    return ''


def compiler() -> list:
    "The words of $CXX as a shell reads them, such as ['ccache', 'g++']; without it ['g++']."
    asked = os.environ.get('CXX', '').strip()
    if shutil.which(asked): return [asked]  # one name, though there may be a space in it
    try: return [word for word in shlex.split(asked) if word] or ['g++']
    except ValueError: raise RuntimeError(f'CXX={asked} has a quotation mark too few') from None


def compiled_library(name: str, source: str, flags, link, folder, marks=()) -> Path:
    """`source` (C++) as a shared library, compiled if that has not been done; RuntimeError if not.

    It is called by `name` and a mark of the command, the machine and `marks`. It lies in `folder`,
    or, where that cannot be written to or is not safe from others, in this user's own cache."""
    how = [*compiler(), *flags]
    text = '\n'.join([source, *how, *link, *_machine(), *marks])
    mark = hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:16]
    file, whys = f'{name}-{mark}.so', []
    for place in (Path(folder), _own_folder()):
        try: return _kept(place, file, source, how, link)
        except (OSError, InputError) as e: whys.append(_short(e))
    raise RuntimeError(f'no kernel can be kept in {folder} ({whys[0]}); '
                       'CIFAR_NB_CACHE may name another folder')


def _short(e: Exception) -> str: return getattr(e, 'strerror', None) or str(e)


def _machine() -> list:
    "What a library for this processor and this system depends on."
    lines = Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
    about = [line for line in lines if line.startswith(('flags', 'model', 'Features'))]
    return [*about[:3], *platform.libc_ver()]


def _own_folder() -> Path:
    "Where a user without any settings has libraries."
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return Path(cache, 'cifar_nb', 'kernels')


def _others_write(s: os.stat_result) -> bool:
    "Whether others than the owner and root may write to what `s` describes."
    return bool(s.st_mode & stat.S_IWOTH or s.st_mode & stat.S_IWGRP and not _own_group(s.st_gid))


def _others_enter(s: os.stat_result) -> bool:
    "Whether others than the owner and root may enter the folder that `s` describes."
    return bool(s.st_mode & stat.S_IXOTH or s.st_mode & stat.S_IXGRP and not _own_group(s.st_gid))


def _own_group(gid: int) -> bool:
    "Whether the group is this user's alone, as many systems make one for each user."
    import grp
    import pwd
    try: me, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(gid)
    except KeyError: return False
    return group.gr_name == me and not set(group.gr_mem) - {me}


def distrust(folder: Path) -> str:
    "Why others could put something into `folder` (resolved) or in its place; an empty word if not."
    closed = False
    for p in [*reversed(folder.parents), folder]:
        s = p.stat()
        if s.st_uid not in (0, os.getuid()): return f'{p} belongs to another user'
        safe = closed or s.st_mode & stat.S_ISVTX  # as /tmp: nobody moves what is another's
        if _others_write(s) and (p == folder or not safe):
            return f'others may write to {p}; chmod go-w ends that'
        closed = closed or not _others_enter(s)
    return ''


def _sum_of(library: Path) -> Path: return library.with_name(library.name + '.sha256')


def _digest(path: Path) -> str: return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_ours(path: Path) -> bool:
    "Whether `path` is a file that only this user or root can have written."
    s = path.lstat()
    return stat.S_ISREG(s.st_mode) and s.st_uid in (0, os.getuid()) and not _others_write(s)


def _is_whole(library: Path) -> bool:
    "Whether the library is there, ours, and what its sha256 says."
    try:
        if not (_is_ours(library) and _is_ours(_sum_of(library))): return False
        return _sum_of(library).read_bytes() == _digest(library).encode()
    except OSError: return False


def _kept(folder: Path, file: str, source: str, how: list, link) -> Path:
    "The library `file` in `folder`; OSError if the folder will not do."
    if str(folder).startswith('~'): raise OSError('there is no home folder')
    folder = folder.resolve()
    for p in [*reversed(folder.parents), folder]:
        if not p.is_dir(): p.mkdir(mode=0o755, exist_ok=True)
    if why := distrust(folder): raise OSError(why)
    library = folder / file
    if _is_whole(library): return library
    with locked(folder / '.lock', 'another process compiles there for too long', wait=900):
        if not _is_whole(library): _build(library, source, how, link)  # else the other has done it
    return library


def _build(library: Path, source: str, how: list, link):
    "Compile `source`, and put it and its sha256 in their places, whole; one process at a time."
    folder = library.parent
    for left in [*folder.glob('.build-*'), *folder.glob('tmp*')]:  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix='.build-', dir=folder, ignore_cleanup_errors=True) as d:
        text, fresh, digest = Path(d, 'kernel.cpp'), Path(d, library.name), Path(d, 'sha256')
        text.write_text(source, encoding='utf-8')
        _compile([*how, str(text), '-o', str(fresh), *link], fresh)
        digest.write_bytes(_digest(fresh).encode())
        for p, target in ((fresh, library), (digest, _sum_of(library))):
            p.chmod(0o644)  # whatever the umask is, others must not write
            with open(p, 'rb+') as f: os.fsync(f.fileno())
            os.replace(p, target)


def _compile(command: list, fresh: Path):
    "Run the compiler `command`, which should write `fresh`."
    try:
        done = subprocess.run(command, capture_output=True, encoding='utf-8', errors='replace',
                              timeout=900, env=os.environ | {'LC_ALL': 'C'})
    except (OSError, subprocess.SubprocessError) as e:
        if isinstance(e, FileNotFoundError): why = f'there is no compiler called {command[0]}'
        else: why = f'the compiler {command[0]} cannot be run ({_short(e)})'
        raise RuntimeError(why) from None
    if done.returncode == 0 and fresh.is_file(): return
    lines = done.stderr.splitlines() or ['nothing, and has written nothing']
    first = next((line for line in lines if 'error' in line), lines[0])
    raise RuntimeError(f'the compiler says: {first[:300]}')
