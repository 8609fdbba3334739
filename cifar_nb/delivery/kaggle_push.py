"""Plain module: the notebook for Kaggle checked and sent, with Kaggle's own client.

Tests: tests/test_kaggle.py, chapter 66.
"""
import ast
import contextlib
import io
import json
import os
import re
import tempfile
from pathlib import Path

from ..core.errors import InputError, missing
from ..core.files import read_json, write_atomic
from .kaggle import build, imported, metadata, with_sources

__all__ = ['slug_of', 'name_problems', 'machine_problems', 'machine_warnings', 'source_problems',
           'files_of', 'module_of', 'cell_problems', 'later_imports', 'notebook_problems', 'reread',
           'check_notebook', 'client', 'send', 'sources', 'left_out', 'push', 'command_kaggle']


def slug_of(title: str) -> str:
    "What Kaggle makes of a `title` in an address."
    return re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')

def name_problems(m: dict, folder: Path):
    "Sentences about the names in the metadata `m` of the notebook in `folder`."
    ident, title, code = str(m.get('id', '')), str(m.get('title', '')), str(m.get('code_file', ''))
    if not re.fullmatch(r'[\w-]+/[A-Za-z0-9][A-Za-z0-9-]{4,49}', ident):
        yield (f'id is {ident!r}; it must be user/slug, a slug of 5 to 50 letters, digits, '
               'hyphens, without a version')
    if not 5 <= len(title) <= 50:
        yield f'title {title!r} has {len(title)} letters; 5 to 50 are allowed'
    if slug_of(title) != ident.rpartition('/')[2]:
        yield (f'title {title!r} becomes {slug_of(title)!r}, not the slug of the id; Kaggle would '
               'make another notebook')
    if not code.endswith('.ipynb') or Path(code).name != code or not os.path.isfile(folder / code):
        yield f'code_file is {code!r}, and there is no such notebook in {folder}'

def machine_problems(m: dict):
    """Sentences about what the metadata `m` ask of the machine, and about fields that Kaggle would
    leave out silently."""
    for k, v in dict(language='python', kernel_type='notebook').items():
        if m.get(k) != v: yield f'{k} is {m.get(k)!r}; it must be {v!r}'
    shape = m.get('machine_shape') or ''
    if not isinstance(shape, str): yield f'machine_shape is {shape!r}; it must be a name'
    elif shape and m.get('enable_tpu' if _is_tpu(shape) else 'enable_gpu') is False:
        yield (f'machine_shape is {shape!r}, and Kaggle starts that machine although '
               f'{"enable_tpu" if _is_tpu(shape) else "enable_gpu"} is false; make it empty')
    for k in ('is_private', 'enable_gpu', 'enable_tpu', 'enable_internet'):
        if type(m.get(k)) is not bool:
            yield f'{k} is {m.get(k)!r}; write true or false, or the client chooses'
    if m.get('enable_gpu') is m.get('enable_tpu') is True:
        yield 'enable_gpu and enable_tpu are both true; a session has one of them'
    known = {*metadata('someone'), 'id_no', 'docker_image', 'docker_image_pinning_type'}
    for k in sorted(set(m) - known):
        yield f'{k} is not a field that Kaggle knows; it would be left out'


def machine_warnings(m: dict):
    """Sentences about a machine that the metadata `m` ask for and Kaggle may not start, or start in
    vain."""
    shape = str(m.get('machine_shape') or '')
    if _is_tpu(shape) or m.get('enable_tpu') is True:
        yield 'a TPU is asked for, and this notebook cannot use one'
    elif shape.lower() == 'nvidiateslap100':
        yield f'machine_shape {shape!r} is retired; the session gets NvidiaTeslaT4 instead'
    elif shape not in ('', 'NvidiaTeslaT4'):
        yield f'machine_shape {shape!r} is not known here; the notebook is made for NvidiaTeslaT4'
    elif m.get('enable_gpu') is True and not shape:
        yield 'machine_shape is empty; Kaggle chooses the GPU'

def _is_tpu(shape: str) -> bool: return shape.lower().startswith('tpu')


_FORMS = dict(
    dataset_sources=(r'[\w-]+/[\w-]+(/\d+)?', 'owner/slug'),
    kernel_sources=(r'[\w-]+/[\w-]+(/\d+)?', 'owner/slug'),
    competition_sources=(r'[\w-]+', 'slug'),
    model_sources=(r'([\w.-]+/){4}\d+', 'owner/model/framework/instance/version'))

def source_problems(m: dict):
    "Sentences about the lists of datasets, competitions, notebooks and models in the metadata `m`."
    for k, (form, words) in _FORMS.items():
        given = m.get(k, [])
        if not isinstance(given, list): yield f'{k} is {given!r}; it must be a list'; continue
        for s in given:
            if not re.fullmatch(form, str(s)): yield f'{k} has {s!r}; the form is {words}'

_LAYER, _FILE = re.compile(r'%%layer \w+\n'), re.compile(r'^#: (.+)\n', re.M)

def files_of(text: str) -> dict:
    "The files that a cell of a layer writes, by their paths; empty for another cell."
    if not _LAYER.match(text): return {}
    parts = _FILE.split(text)[1:]
    return dict(zip(parts[::2], parts[1::2]))

def module_of(path: str) -> str:
    "The module in the file `path`: 'data.cifar'; empty where it is no Python."
    return path.removesuffix('.py').replace('/', '.') if path.endswith('.py') else ''

def cell_problems(c: dict, above: set):
    """Sentences about the code cell `c`; `above` has the modules that the cells above it made, and
    gets its own."""
    text, name = ''.join(c['source']), c.get('id', '?')
    if c.get('outputs') or c.get('execution_count'):
        yield f'cell {name} has outputs; build the notebook again'
    if files := files_of(text):
        above |= {m for path in files if (m := module_of(path))}
        for path, code in files.items():
            if module_of(path): yield from _not_python(f'{name}, {path},', code)
        return
    if re.search(r'^\s*([!%]|pip install)', text, re.M):
        yield (f'cell {name} calls the shell or another magic; there may be no internet, and no '
               'shell')
        return
    if bad := [*_not_python(name, text)]: yield from bad; return
    yield from (f'cell {name} imports cifar_nb.{x}, which no cell above it makes'
                for x in sorted(imported(text, at_import=True) - above))

def _not_python(name: str, code: str):
    try: ast.parse(code)
    except SyntaxError as e: yield f'cell {name} is not Python (line {e.lineno}: {e.msg})'

def later_imports(c: dict) -> set:
    """The modules that the code cell `c` imports when something in it is called, or, in the cell of
    a layer, when one of its modules is imported."""
    text = ''.join(c['source'])
    files = files_of(text)
    try:
        if files: return {m for p, code in files.items() if module_of(p) for m in imported(code)}
        return imported(text) - imported(text, at_import=True)
    except SyntaxError: return set()


def notebook_problems(nb: dict):
    "Sentences about what is wrong with the notebook `nb`, as JSON gives it."
    if nb.get('nbformat') != 4 or not isinstance(nb.get('cells'), list):
        yield 'it is no notebook of format 4'
        return
    if nb.get('metadata', {}).get('kernelspec', {}).get('name') != 'python3':
        yield 'the kernelspec is not python3; Kaggle would not know how to run it'
    ids, above = [c.get('id', '') for c in nb['cells']], set()
    if len(set(ids)) < len(ids) or not all(re.fullmatch(r'[\w-]{1,64}', i) for i in ids):
        yield 'there are cells with no ids, or with ids that occur twice'
    tagged = sum('parameters' in c.get('metadata', {}).get('tags', []) for c in nb['cells'])
    if tagged != 1: yield f'{tagged} cells are tagged parameters; it must be one'
    cells = [c for c in nb['cells'] if c.get('cell_type') == 'code']
    for c in cells: yield from cell_problems(c, above)
    for c in cells:  # what a function imports must be made by then, anywhere
        for m in sorted(later_imports(c) - above):
            yield f'cell {c.get("id", "?")} imports cifar_nb.{m}, and no cell makes it'


def reread(path: Path) -> dict:
    "The object in the JSON file `path`; `InputError` if there is none."
    return read_json(path, 'run `cifar_nb kaggle build`.')

def check_notebook(folder='kaggle') -> list:
    """What is wrong with the notebook and the metadata in `folder`, a sentence each; an empty list
    if all is well."""
    folder = Path(folder)
    try:
        m = reread(folder / 'kernel-metadata.json')
        found = [*name_problems(m, folder), *machine_problems(m), *source_problems(m)]
        path = folder / str(m.get('code_file', ''))
        return found + ([*notebook_problems(reread(path))] if os.path.isfile(path) else [])
    except InputError as e: return [str(e)]
    except (AttributeError, KeyError, TypeError):
        return found + [f'{path} is no notebook of format 4']


def client():
    """Kaggle's official client, logged in; `InputError` where it is not installed, is too old or
    cannot start, or where there is no token."""
    nobody = InputError('Kaggle does not know who you are: make a token at '
                        'kaggle.com/settings/api and set KAGGLE_API_TOKEN, or KAGGLE_USERNAME '
                        'and KAGGLE_KEY.')
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a page of advice
        try: from kaggle.api.kaggle_api_extended import KaggleApi
        except ImportError: raise missing('kaggle') from None
        except (OSError, SystemExit) as e:  # clients up to 2.0 log in when they are imported
            if not getattr(e, 'errno', None): raise nobody from None
            raise InputError(f"Kaggle's client cannot use {e.filename} ({e.strerror}): set "
                             'KAGGLE_CONFIG_DIR to a folder in which you may write.') from None
        if old := getattr(KaggleApi, '__version__', ''):  # from 2 on the package has it
            raise InputError(f'The client kaggle {old} cannot ask for a machine: run '
                             '`pip install "kaggle>=2"`, with Python 3.11 or newer.')
        api = KaggleApi()
        try: api.authenticate()
        except (Exception, SystemExit): raise nobody from None
    return api

def send(api, folder: Path):
    "The client's answer to the notebook in `folder`; a refusal is an `InputError`."
    try: answer = api.kernels_push(str(folder))
    except Exception as e: why = ' '.join(str(e).split())[:300]
    else:
        if not (why := getattr(answer, 'error', None)): return answer
    raise InputError(f'Kaggle refused the notebook ({why}): do what the message says and push '
                     'again.')

_LEFT_OUT = dict(  # what the client's answer names, and what to do about it
    tags='keywords: Kaggle has no such tags',
    dataset_sources='dataset: look at its address, and whether you may see it',
    competition_sources='competition: accept its rules on its page, and look at its address',
    kernel_sources='notebook: look at its address, and whether it has an output',
    model_sources='model: look at its address, and accept its licence')

def left_out(answer) -> dict:
    """What Kaggle did not add to the notebook, by the client's `answer`: a sentence for each field
    ('dataset_sources', ...)."""
    found = {k: getattr(answer, f'invalid_{k}', None) or [] for k in _LEFT_OUT}
    return {k: f'Kaggle left out {", ".join(names)} ({_LEFT_OUT[k]})'
            for k, names in found.items() if names}

def sources(competition: str | None = None, resume_from: str | None = None) -> dict:
    """The fields of the metadata that attach a `competition` (its slug) and the output of an
    earlier notebook to `resume_from` (owner/slug)."""
    given = [('--competition', 'competition_sources', competition),
             ('--resume-from', 'kernel_sources', resume_from)]
    for option, k, v in given:
        form, words = _FORMS[k]
        if v is not None and not re.fullmatch(form, v):
            raise InputError(f'{option} has {v!r}; the form is {words}.')
    return {k: [v] for _, k, v in given if v is not None}

def push(folder='kaggle', user: str | None = None, say=print, more: dict | None = None) -> str:
    """Check `folder` and send it to Kaggle as a notebook of `user` (default: the owner of the
    token), with the `sources` in `more` besides; its address. What Kaggle left out is said."""
    if problems := check_notebook(folder):
        raise InputError(f'{folder} was not sent: {"; ".join(problems)}.')
    api, folder = client(), Path(folder)
    m = with_sources(reread(folder / 'kernel-metadata.json'), more)
    for w in machine_warnings(m): say(f'ATTENTION: {w}')
    owner, slug = m['id'].split('/')
    m['id'] = f"{user or getattr(api, 'config_values', {}).get('username') or owner}/{slug}"
    with tempfile.TemporaryDirectory() as tmp:
        write_atomic(Path(tmp, m['code_file']), (folder / m['code_file']).read_bytes())
        write_atomic(Path(tmp, 'kernel-metadata.json'), json.dumps(m))
        answer = send(api, tmp)
    version = getattr(answer, 'version_number', None) or getattr(answer, 'versionNumber', '?')
    say(f'version {version} is at {answer.url}')
    lost = left_out(answer)
    if tags := lost.pop('tags', ''): say(f'ATTENTION: {tags}')
    if lost: raise InputError(f'Version {version} runs without all of its data: '
                              f'{"; ".join(lost.values())}. Then push again.')
    return answer.url


def command_kaggle(action: str, folder='kaggle', user: str | None = None, say=print,
                   competition: str | None = None, resume_from: str | None = None):
    """What `cifar_nb kaggle ACTION` does: 'build', 'check' or 'push'; problems are an `InputError`
    with all of them. `competition` and `resume_from` are those of `sources`."""
    more = sources(competition, resume_from)
    if action == 'build':
        path = build(folder, user, more, say)
        say(f'{path}: {len(reread(path)["cells"])} cells, {path.stat().st_size / 1024:.0f} KB')
    elif action == 'push': push(folder, user, say, more)
    elif action != 'check':
        raise InputError(f"There is no action {action!r}; choose 'build', 'check' or 'push'.")
    elif more: raise InputError('A check attaches nothing: --competition and --resume-from are for '
                                'build and push.')
    elif problems := check_notebook(folder): raise InputError('; '.join(problems))
    else:
        for w in machine_warnings(reread(Path(folder, 'kernel-metadata.json'))):
            say(f'ATTENTION: {w}')
        say(f'{folder} is ready to be pushed')
