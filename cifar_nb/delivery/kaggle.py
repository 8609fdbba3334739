"""Plain module: one notebook that runs where nothing is installed, made of the package's modules in
the order of their imports, and never edited. Tests: tests/test_kaggle.py, chapter 66.
"""
import ast
import inspect
import json
import re
import textwrap
from dataclasses import fields, replace
from pathlib import Path

import cifar_nb

from .._modidx import d as _index
from ..core.errors import InputError
from ..core.files import make_folder, read_json, there, write_atomic
from ..recipes.house import HOUSE
from ..teams import zoo
from .kaggle_pages import BADGES, BEFORE, JUDGE, LIBRARY, MEMBERS, RUN, SUBMIT, TRAIN, YOURS

__all__ = ['PACKAGE', 'module_text', 'absolute', 'chapter_code', 'chapter_facts', 'imported',
           'needed', 'given', 'expression', 'team_recipes', 'words_of', 'recipe_code', 'zoo_code',
           'cell', 'page_cells', 'LAYER_TEXTS', 'layer_cells', 'layer_table', 'metadata',
           'notebook', 'kept', 'with_sources', 'build']


PACKAGE = Path(cifar_nb.__file__).parent
# that a module reads
SOURCE_FILES = {
    'kernels.compiler': tuple(
        f'kernels/csrc/{f}' for f in ('vectors.h', 'winograd.cpp', 'fused_norm.cpp'))}

def module_text(module: str) -> str:
    "The text of `module` ('data.cifar', 'core.files', ...)."
    return PACKAGE.joinpath(*module.split('.')).with_suffix('.py').read_text(encoding='utf-8')

def absolute(code: str, module: str) -> str:
    "`code` of `module` with its relative imports, of any level, written out from `cifar_nb` on."
    lines, inside = code.split('\n'), ['cifar_nb', *module.split('.')]
    for n in ast.walk(ast.parse(code)):
        if not isinstance(n, ast.ImportFrom) or not n.level: continue
        home = '.'.join([*inside[:len(inside) - n.level], *filter(None, [n.module])])
        lines[n.lineno - 1] = re.sub(
            r'\bfrom +\.+ *[\w.]*', f'from {home}', lines[n.lineno - 1], count=1)
    return '\n'.join(lines)

def chapter_code(module: str) -> str:
    """What `module` holds as one text: the exported cells, or all of a module written by hand;
    absolute imports. The registry of recipes (teams.zoo) comes with its recipes, as `zoo_code`
    writes them."""
    if module == 'teams.zoo': return zoo_code()
    text = module_text(module)
    cells = re.split(r'^# %%.*\n', text, flags=re.M)[1:] or [text]
    code = '\n\n'.join(c.strip('\n') for c in cells if not c.startswith('__all__'))
    return absolute(code, module)

def chapter_facts(module: str) -> tuple:
    """(number and name, subtitle) of the notebook that exports `module`, say ('01_data', 'Sixty
    thousand small ...'); of a module that is written by hand ('', first line of its docstring)."""
    text = module_text(module)
    book = re.search(r'File to edit: \S*?([\w.-]+)\.ipynb', text)
    about = ast.get_docstring(ast.parse(text)) or ''
    return ((book[1], about) if book
            else ('', about.splitlines()[0].removeprefix('Plain module: ').rstrip('.')))


def imported(code: str, at_import: bool = False) -> set:
    """The modules of this package that `code` imports anywhere in it, or only `at_import`, which is
    outside its functions: 'data.cifar', 'models.resnet', ..."""
    found, todo = set(), [ast.parse(code)]
    while todo:
        n = todo.pop()
        if not (at_import and isinstance(n, (ast.FunctionDef, ast.Lambda))):
            todo += ast.iter_child_nodes(n)
        if isinstance(n, ast.Import): found |= {a.name for a in n.names}
        elif isinstance(n, ast.ImportFrom) and not n.level:
            is_package = PACKAGE.parent.joinpath(*n.module.split('.')).is_dir()
            found |= {f'{n.module}.{a.name}' for a in n.names} if is_package else {n.module}
    return {m.removeprefix('cifar_nb.') for m in found if m.startswith('cifar_nb.')}


def needed(*modules: str) -> list:
    """`modules` and all that they import from this package: what is imported comes before what
    imports it, else in the order of the book. What a function imports must be there when it is
    called."""
    imports, todo, out = {}, set(modules), []
    while todo:
        module = todo.pop()
        code = chapter_code(module)
        imports[module] = imported(code, at_import=True)
        todo |= imported(code) - imports.keys()
    while left := [m for m in imports if m not in out]:
        ready = [m for m in left if imports[m] <= {m, *out}]
        if not ready:
            raise InputError(f'{", ".join(sorted(left))} import each other in a circle: move what '
                             'they share below them.')
        out.append(min(ready, key=lambda m: (chapter_facts(m), m)))
    return out


_ALWAYS = ('lr', 'batch_size', 'variant')  # written out even where they are the default

def given(value) -> list:
    "(name, value) of the fields of the dataclass instance `value` that its expression names."
    return [(f.name, v) for f in fields(value) if (v := getattr(value, f.name)) != f.default
            or f.name in _ALWAYS]

def expression(value, indent: int = 0, width: int = 100, before: int = 0) -> str:
    """The Python expression for `value` (a recipe, or what recipes are made of), in lines of at
    most `width`, or as long as a string; `before` of its first line are taken."""
    if hasattr(value, '__dataclass_fields__'):
        name, parts = type(value).__name__, [(f'{k}=', v) for k, v in given(value)]
    elif isinstance(value, (tuple, list)): name, parts = '', [('', v) for v in value]
    else: return repr(value)
    line, comma = (', '.join(k + expression(v, 0, 10**6) for k, v in parts),
                   ',' * (not name and len(parts) == 1))
    if indent + before + len(name) + len(line) + 3 <= width: return f'{name}({line}{comma})'
    inner = ' ' * (indent + 4)
    lines = (f'{inner}{k}{expression(v, indent + 4, width, len(k))},\n' for k, v in parts)
    return f'{name}(\n{"".join(lines)}{" " * indent})'


def team_recipes() -> dict:
    "Module to its recipes without their claims: those of the book, and of each team."
    found = {'recipes.house': HOUSE} | {
        t.__name__.removeprefix('cifar_nb.'): t.recipes for t in zoo.TEAMS}
    return {m: [replace(r, claims=()) for r in recipes] for m, recipes in found.items()}


def words_of(value) -> dict:
    "The classes that the expression of `value` names, by name."
    if isinstance(value, (tuple, list)):
        return {k: c for v in value for k, c in words_of(v).items()}
    if not hasattr(value, '__dataclass_fields__'): return {}
    return {type(value).__name__: type(value)} | words_of([v for _, v in given(value)])

def _import(module: str, names: list) -> str:
    head, listed = f'from {module} import ', ', '.join(names)
    if len(head) + len(listed) <= 100: return head + listed
    return textwrap.fill(f'{head}({listed})', 100, subsequent_indent=' ' * (len(head) + 1))

def recipe_code(recipes: list) -> str:
    """The lines that make `recipes` known to the registry `_ZOO`; `InputError` if one does not come
    back as it is."""
    names = words_of(recipes)
    for r in recipes:
        if eval(expression(r), dict(names)) != r:
            raise InputError(f'The recipe {r.name} cannot be written as an expression: '
                             'build it from plain numbers, strings and tuples.')
    return '\n\n'.join(f'_ZOO.add({expression(r)})' for r in recipes)

_OF_ZOO = zoo.register, zoo.list_recipes, zoo.get_recipe, zoo.base_of

def zoo_code() -> str:
    """The module teams.zoo without the chapters behind it: the recipes of the book and of the
    teams as the expressions that make them, and the functions that find them."""
    found = team_recipes()
    homes = {'cifar_nb.core.errors': {'InputError'},
             'cifar_nb.recipes.registry': {'Registry'}, 'cifar_nb.recipes.spec': {'Recipe'}}
    for name, c in words_of([r for rs in found.values() for r in rs]).items():
        homes.setdefault(c.__module__, set()).add(name)
    lines = [_import(home, sorted(homes[home])) for home in sorted(homes)]
    blocks = ['"""The recipes of the book and of the five teams, by name."""', '\n'.join(lines),
              '_ZOO = Registry()']
    for module, recipes in found.items():
        book, subtitle = chapter_facts(module)
        blocks.append(f'# {book or module}: {subtitle}\n{recipe_code(recipes)}')
    return '\n\n'.join([*blocks, *('\n' + inspect.getsource(f).strip() for f in _OF_ZOO)]) + '\n'


def cell(kind: str, name: str, text: str, *marks: str) -> dict:
    """A notebook cell: `kind` 'md' or 'code', `name` its id; `marks` are 'parameters' (the tag) and
    'hidden' (folded)."""
    c = dict(cell_type='markdown' if kind == 'md' else 'code', id=name, metadata={})
    c['source'] = text.strip('\n').splitlines(keepends=True)
    if kind == 'code': c |= dict(execution_count=None, outputs=[])
    if 'parameters' in marks: c['metadata']['tags'] = ['parameters']
    if 'hidden' in marks:
        c['metadata'] |= {'_kg_hide-input': True, 'jupyter': {'source_hidden': True},
                          'cellView': 'form'}  # as Kaggle, JupyterLab and Colab fold a cell
    return c

def page_cells(page: str, **words) -> list:
    "The cells of a `page`, with [NAME] replaced by the value of NAME in `words`."
    for k, v in words.items(): page = page.replace(f'[{k}]', v)
    parts = re.split(r'^%% (.*)\n', page, flags=re.M)[1:]
    return [cell(*head.split()[:2], text, *head.split()[2:])
            for head, text in zip(parts[::2], parts[1::2])]

LAYER_TEXTS = dict(  # from the lowest to the highest, and what each holds
    core='files, errors, tables, what a run is', data='the images, found, checked and read',
    augment='every image drawn anew, a batch at a time', models='networks as data',
    kernels='convolutions and batch norm for processors', recipes='a training as data',
    training='the loop, checkpoints, several devices', evaluation='errors, views, submissions',
    teams='the recipes of the book and of the five teams', delivery='this notebook\'s own steps')

def layer_cells(modules: list) -> list:
    """A folded cell for each layer that `modules` ('data.cifar', ...) are of: each file after a
    line `#: path`."""
    cells = []
    for layer, about in LAYER_TEXTS.items():
        parts = [f'%%layer {layer}\n# @title {layer}: {about}\n']
        for m in [m for m in modules if m.split('.')[0] == layer]:
            files = {f: PACKAGE.joinpath(f).read_text(encoding='utf-8')
                     for f in SOURCE_FILES.get(m, ())}
            files[m.replace('.', '/') + '.py'] = chapter_code(m)
            parts += [f'#: {path}\n{text.rstrip()}\n\n' for path, text in files.items()]
        if len(parts) > 1: cells.append(cell('code', f'layer-{layer}', ''.join(parts), 'hidden'))
    lost = {m.split('.')[0] for m in modules} - LAYER_TEXTS.keys()
    if lost: raise InputError(f'{", ".join(sorted(lost))}: name these layers in LAYER_TEXTS.')
    return cells

def layer_table(modules: list, base: str) -> str:
    "A table in markdown: each layer, what it holds, and links to its chapters; `base`: nbs/."
    rows = ['| layer | holds | chapters |', '|---|---|---|']
    for layer, about in LAYER_TEXTS.items():
        books = dict.fromkeys(chapter_facts(m)[0] for m in modules if m.split('.')[0] == layer)
        if layer == 'teams': books = dict.fromkeys(chapter_facts(m)[0] for m in team_recipes())
        links = ', '.join(f'[{b.replace("_", " ")}]({base}/{b}.ipynb)' for b in sorted(books) if b)
        if books: rows.append(f'| `{layer}` | {about} | {links} |')
    return '\n'.join(rows)


def metadata(user: str, slug: str = 'cifar-nb') -> dict:
    "What kernel-metadata.json holds for the notebook `slug` of `user`."
    return dict(
        id=f'{user}/{slug}', title=slug.replace('-', ' ').upper(), code_file=f'{slug}.ipynb',
        language='python', kernel_type='notebook', is_private=True, keywords=['gpu'],
        enable_gpu=True, enable_tpu=False, enable_internet=False, machine_shape='NvidiaTeslaT4',
        dataset_sources=['pankrzysiu/cifar10-python'], competition_sources=[], kernel_sources=[],
        model_sources=[])

def notebook(default: str = 'hour') -> dict:
    "The whole notebook; `default` is the recipe that it trains on a GPU if none is chosen."
    git, branch = _index['settings']['git_url'], _index['settings']['branch']
    blob = f'{git}/blob/{branch}'
    repo = git.partition('github.com/')[2]
    words = dict(BADGES=BADGES, GIT=git, REPO=repo, BRANCH=branch, BLOB=blob,
                 DEFAULT=repr(default))
    after = [c for page in (YOURS, RUN, MEMBERS, TRAIN, JUDGE, SUBMIT)
             for c in page_cells(page, **words)]
    wanted = {m for c in after if c['cell_type'] == 'code' for m in imported(''.join(c['source']))}
    modules = needed(*wanted)
    words['TABLE'] = layer_table(modules, f'{blob}/nbs')
    python = dict(kernelspec=dict(display_name='Python 3', language='python', name='python3'),
                  language_info=dict(name='python'),
                  kaggle=dict(accelerator='nvidiaTeslaT4', isGpuEnabled=True,
                              isInternetEnabled=False))
    cells = page_cells(BEFORE + LIBRARY, **words) + layer_cells(modules) + after
    return dict(cells=cells, metadata=python, nbformat=4, nbformat_minor=5)

def kept(path, m: dict, say=print) -> dict:
    """What the metadata file `path` says about the notebook's name and sources, which a build
    leaves as it is; `m` are the metadata of a first build. A damaged file is told to `say`."""
    if not there(path): return {}
    try: old = read_json(path, 'it is written anew.')
    except InputError as e: say(f'{e}'); return {}
    found = {k: old[k] for k in m if k in old and (k in ('id', 'title') or k.endswith('_sources'))}
    for k, v in found.items():
        if not isinstance(v, type(m[k])):
            raise InputError(f'{path} has the {k} {v!r}, which must be a '
                             f'{"list" if isinstance(m[k], list) else "text"}: correct it, or '
                             'delete the file, and build again.')
    return found

def with_sources(m: dict, more: dict | None = None) -> dict:
    "The metadata `m` with the sources in `more` ({field: list}) behind its own, each once."
    return m | {k: list(dict.fromkeys([*m.get(k, []), *v])) for k, v in (more or {}).items()}

def build(folder='kaggle', user: str | None = None, more: dict | None = None, say=print) -> Path:
    """Write cifar-nb.ipynb and kernel-metadata.json for `user` (of Kaggle) into `folder`, with the
    sources in `more` ({field: list}) besides; the notebook's path. Name and sources that stand in
    an older kernel-metadata.json are kept, and `say` is told."""
    m = metadata(user or _index['settings']['git_url'].rstrip('/').split('/')[-2])
    path = make_folder(folder) / m['code_file']
    file = path.with_name('kernel-metadata.json')
    old = kept(file, m, say)
    if user and 'id' in old: old['id'] = f"{user}/{old['id'].rpartition('/')[2]}"
    if words := ', '.join(f'{k} {v!r}' for k, v in old.items() if v != m[k]):
        say(f'kept from {file}: {words}')
    for p, content in ((path, notebook()), (file, with_sources(m | old, more))):
        write_atomic(p, json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + '\n')
    return path
