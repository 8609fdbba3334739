"""Plain module: the book as a site: the chapters as they stand, nothing executed, made by Sphinx
and myst-nb without a network. Tests: tests/test_site.py.
"""
import csv
import functools
import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cifar_nb

from .._modidx import d as _index
from ..core.errors import InputError, missing
from ..core.files import make_folder, read_json, read_text, writable_folder, write_atomic
from ..core.places import book_root
from ..core.tables import Table

__all__ = ['BOOK_PARTS', 'book_folder', 'readable', 'folded', 'page_of', 'contents',
           'scoreboard_page', 'api_pages', 'prepare', 'build_site', 'serve_site', 'command_site']

GIT, BRANCH = (_index['settings'][k] for k in ('git_url', 'branch'))
BOOK_PARTS = ('start', 'how it works', 'the five teams', 'side by side', 'fast',
              'beyond the reports', 'how-to and machinery', 'pages')  # of chapters.csv
FORMULAS = 'tex-svg.js'  # of MathJax: one file, glyphs and all
FOLD = 25  # lines of an exported cell from which on it is folded
STATIC = Path(__file__).with_name('site_static')  # a style sheet and a script
CONF = '''# Made by `cifar_nb site build`.
project, author, html_title = 'cifar_nb', 'The cifar_nb authors', 'cifar_nb'
extensions = ['myst_nb', 'sphinx.ext.autodoc']
exclude_patterns, nb_execution_mode, html_copy_source = [], 'off', False
nb_code_prompt_show, nb_code_prompt_hide = 'show code', 'hide code'
mathjax_path = {formulas!r}
myst_enable_extensions, myst_heading_anchors = ['dollarmath', 'colon_fence'], 3
suppress_warnings = ['myst.header', 'myst.xref_missing', 'mystnb.unknown_mime_type', 'docutils',
                     'misc.highlighting_failure', 'toc.not_included']
default_role, autodoc_member_order, autodoc_typehints = 'code', 'bysource', 'none'
html_theme, html_static_path = 'sphinx_book_theme', ['_static']
html_css_files, html_js_files = ['book.css'], ['sort.js']
html_theme_options = dict(
    repository_url={git!r}, repository_branch={branch!r}, path_to_docs='nbs',
    use_repository_button=True, use_issues_button=True, use_download_button=False,
    show_toc_level=2,
    launch_buttons=dict(colab_url='https://colab.research.google.com'),
    pygments_light_style='a11y-high-contrast-light', pygments_dark_style='a11y-high-contrast-dark')
'''


def book_folder(given=None) -> Path:
    "The folder of the book, or the one `given`; `InputError` where there is none."
    if given is None: return book_root()
    root = Path(given)
    if not (root / 'nbs' / 'index.ipynb').is_file():
        raise InputError(f'{root} holds no nbs/index.ipynb: run this in a clone of the book, or '
                         'name its folder with --book.')
    return root


# Chapters

_DIRECTIVE = re.compile(r'#\|[^\n]*(\n|$)')

def _is_plumbing(source: str) -> bool:
    "Whether a cell is hidden, or only imports."
    if re.match(r'#\| *(hide|default_exp|echo: false)\b', source) and 'echo' not in source[:12]:
        return True
    lines = [line for line in _DIRECTIVE.sub('', source).splitlines() if line.strip()]
    return bool(lines) and all(re.match(r'(import |from |[ )]|#)', line) for line in lines)

def readable(source: str) -> str:
    "A cell's `source` without its directives."
    return _DIRECTIVE.sub('', source).strip('\n')

def folded(source: str) -> bool:
    "Whether the code stands behind a click: imports, and long exported cells."
    return (_is_plumbing(source) or bool(re.match(r'#\| *export', source))
            and readable(source).count('\n') + 1 >= FOLD)

def _prose(text: str, depth: int) -> str:
    "Markdown for the site: no badges, and links out of nbs/ lead to the repository."
    text = re.sub(r'^\[!\[Open in (Colab|Kaggle)\].*$\n?', '', text, flags=re.M)
    def away(found):
        path = found[2].lstrip('./')
        return f'{found[1]}({GIT}/blob/{BRANCH}/{path})'
    text = text.replace('](solutions/)', '](solutions/index.md)')
    up = r'\.\./' * (depth + 1)
    return re.sub(rf'(\[[^\]]*\])\(({up}[^)\s]*)\)', away, text)

def page_of(nb: dict, depth: int = 0) -> dict:
    """The notebook `nb` (JSON) as a page, `depth` folders below nbs/: hidden cells dropped, code
    that is only plumbing folded, prose with links that lead somewhere."""
    cells = []
    for c in nb['cells']:
        source = ''.join(c['source'])
        if c['cell_type'] != 'code':
            if text := _prose(source, depth).strip():
                cells.append({**c, 'source': text, 'metadata': {}})
            continue
        if re.match(r'#\| *(hide|default_exp)\b', source) and not c.get('outputs'): continue
        tags = (['remove-input'] if re.match(r'#\| *echo: *false', source) else
                ['hide-input'] if folded(source) or re.match(r'#\| *hide\b', source) else [])
        if not readable(source): continue
        about = dict(tags=tags) | ({'mystnb': {'image': {'alt': alt}}} if (alt := _alt(c)) else {})
        cells.append({**c, 'source': readable(source), 'metadata': about,
                      'outputs': [_shown(o, depth) for o in c.get('outputs', [])]})
    lab = dict(kernelspec=dict(display_name='Python 3', language='python', name='python3'),
               language_info=dict(name='python'))
    return {**nb, 'cells': cells, 'metadata': lab}


def _shown(output: dict, depth: int) -> dict:
    "The `output` of a cell, with links in its Markdown to the pages of the site."
    if 'text/markdown' not in output.get('data', {}): return output
    text = _prose(''.join(output['data']['text/markdown']), depth)
    text = re.sub(r'(\]\((?!https?:)[^)\s]*)\.ipynb([)#])', r'\1.html\2', text)
    return {**output, 'data': {**output['data'], 'text/markdown': text}}


def _alt(c: dict) -> str:
    "The text of the figure that the cell shows, for those who cannot see it."
    return next((o['metadata']['image/png']['alt'] for o in c.get('outputs', [])
                 if 'alt' in o.get('metadata', {}).get('image/png', {})), '')


def contents(root: Path) -> list:
    "[(part, [chapter, ...])] from nbs/chapters.csv, in the order of the book."
    parts = []
    for row in csv.DictReader(read_text(root / 'nbs' / 'chapters.csv').splitlines()):
        if row['part']: parts.append((row['part'], []))
        parts[-1][1].append(row['chapter'])
    return parts

def _toctree(caption: str, pages: list) -> str:
    return '\n'.join(['```{toctree}', ':hidden:', f':caption: {caption}', '', *pages, '```'])

def _cell(text: str, name: str) -> dict:
    return dict(cell_type='markdown', id=name, metadata={}, source=text)


# Pages of their own

def _html_table(rows: list) -> str:
    from html import escape
    head, *body = rows
    def line(cells, tag): return ''.join(f'<{tag}>{escape(str(c))}</{tag}>' for c in cells)
    lines = [f'<tr>{line(r, "td")}</tr>' for r in body]
    return (f'<div class="wide"><table class="sortable"><thead><tr>{line(head, "th")}</tr></thead>'
            f'<tbody>\n{chr(10).join(lines)}\n</tbody></table></div>')

def scoreboard_page(results) -> str:
    "Every claim of the five reports beside what was found, as a page with a table that sorts."
    from ..evaluation.records import load_results
    from ..studies.scoreboard import all_claims
    from ..teams.claims import found_in_words, stated
    found = all_claims(load_results(results, say=str))
    table = Table({'team': team, 'claim': c.what, 'where': c.where, 'stated': stated(c), 'found':
                   found_in_words(c), 'check': c.check, 'verdict': c.verdict} for team, c in found)
    return (f'# Every claim\n\n{len(table)} claims of the five reports, each with what was stated '
            'and what was found. A click on a head sorts, Enter too. '
            '[Chapter 30](30_scoreboard.ipynb) '
            f'explains the columns.\n\n```{{raw}} html\n{_html_table(table.cells())}\n```\n')

def _modules() -> list:
    "The public modules, 'core.files', ..., by layer."
    package = Path(cifar_nb.__file__).parent
    found = [p.relative_to(package).with_suffix('') for p in package.glob('*/*.py')]
    return sorted('.'.join(p.parts) for p in found
                  if not p.name.startswith('_') and 'exercises' not in p.parts)

def api_pages() -> dict:
    "Name to text of the pages of the reference: one a layer, its modules in it."
    layers = {}
    for m in _modules(): layers.setdefault(m.split('.')[0], []).append(m)
    pages = {}
    for layer, modules in layers.items():
        parts = [f'# cifar_nb.{layer}']
        for m in modules:
            parts.append(f'## {m}\n\n```{{eval-rst}}\n.. automodule:: cifar_nb.{m}\n   :members:\n'
                         '   :undoc-members:\n```')
        pages[layer] = '\n\n'.join(parts) + '\n'
    return pages


# The whole

def prepare(root: Path, source: Path):
    "Write what Sphinx reads into the folder `source`: pages, contents, configuration, styles."
    nbs = root / 'nbs'
    def put(name, text):
        make_folder((source / name).parent)
        write_atomic(source / name, text)
    def convert(name, depth=0, more=()):
        page = page_of(read_json(nbs / name, 'take it from git again.'), depth)
        page['cells'] += more
        put(name, json.dumps(page))
    parts = contents(root)
    solutions = sorted(p.stem for p in (nbs / 'solutions').glob('*.ipynb'))
    trees = [_toctree(part, names) for part, names in parts]
    trees.append(_toctree('more', ['scoreboard', 'solutions/index', 'api/index']))
    convert('index.ipynb', more=[_cell('\n\n'.join(trees), 'contents')])
    for _, names in parts:
        for name in names: convert(f'{name}.ipynb')
    for name in solutions: convert(f'solutions/{name}.ipynb', 1)
    put('solutions/index.md', '# Solutions\n\nTry the exercises first.\n\n'
        + _toctree('', solutions).replace(':caption: \n', '').replace(':hidden:\n', ''))
    put('scoreboard.md', scoreboard_page(root / 'results'))
    pages = api_pages()
    for layer, text in pages.items(): put(f'api/{layer}.md', text)
    put('api/index.md', '# Reference\n\nEvery public name, by layer.\n\n'
        + _toctree('', list(pages)).replace(':caption: \n', '').replace(':hidden:\n', ''))
    put('conf.py', CONF.format(git=GIT, branch=BRANCH, formulas=FORMULAS))
    shutil.copytree(STATIC, source / '_static')
    shutil.copy(_mathjax() / FORMULAS, source / '_static' / FORMULAS)

def _mathjax() -> Path:
    "The folder of MathJax, which a package for Sphinx brings along."
    found = importlib.util.find_spec('sphinx-mathjax-offline')
    if found is None: raise missing('sphinx-mathjax-offline')
    return Path(found.origin).parent / 'static' / 'mathjax'


def _is_site(folder: Path) -> bool:
    "Whether `folder` holds what `build_site` made, and not only something with a first page."
    return all((folder / name).exists() for name in ('index.html', 'objects.inv', '.nojekyll'))


def _replace(out: Path, made: Path):
    "Put the folder `made` where `out` is; that stays until all of the new one lies beside it."
    out = out.resolve()
    with tempfile.TemporaryDirectory(prefix=f'.{out.name}.', dir=out.parent) as beside:
        new, old = Path(beside, 'new'), Path(beside, 'old')
        shutil.move(made, new)  # which takes a while from another disk
        if out.exists(): out.rename(old)
        new.rename(out)


def build_site(out='_site', root=None, say=print) -> Path:
    """Build the site into the folder `out` (an older site there is replaced); the path of its first
    page. Nothing of the book is executed."""
    root, out = book_folder(root), Path(out)
    for name in ('sphinx', 'myst_nb', 'sphinx_book_theme'):
        if importlib.util.find_spec(name) is None: raise missing(name.replace('_', '-'))
    if out.exists() and not _is_site(out) and any(out.iterdir()):
        raise InputError(f'{out} holds something else than a site of ours: choose another --out.')
    writable_folder(out.resolve().parent)
    with tempfile.TemporaryDirectory() as tmp:
        source, made = Path(tmp, 'source'), Path(tmp, 'site')
        prepare(root, source)
        argv = [sys.executable, '-m', 'sphinx', '-q', '-b', 'html', '-j', 'auto', '-d',
                str(Path(tmp, 'trees')), str(source), str(made)]
        done = subprocess.run(argv, capture_output=True, encoding='utf-8', errors='replace')
        warnings = [line.replace(f'{source}/', '') for line in done.stderr.splitlines()
                    if 'WARNING' in line or 'ERROR' in line]
        for line in warnings: say(line)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ['it said nothing'])[-1]
            raise InputError(f'Sphinx stopped with status {done.returncode} ({last}).')
        (made / '.nojekyll').touch()
        _replace(out, made)
    say(f'{out}/index.html: {sum(1 for _ in out.glob("**/*.html"))} pages')
    return out / 'index.html'


def serve_site(out='_site', port: int = 8000, say=print):
    "Show the site in `out` at a port of this machine, until Ctrl-C."
    out = Path(out)
    if not (out / 'index.html').is_file():
        raise InputError(f'{out} holds no site: run `cifar_nb site build` first.')
    if not 0 <= port <= 65535: raise InputError(f'--port {port}: give a number from 0 to 65535.')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(out))
    try: server = http.server.ThreadingHTTPServer(('127.0.0.1', port), handler)
    except OSError as e:
        raise InputError(f'Port {port} cannot be used ({e.strerror}): choose another --port.'
                         ) from None
    with server:
        say(f'http://127.0.0.1:{server.server_address[1]}/ (Ctrl-C ends it)')
        try: server.serve_forever()
        except KeyboardInterrupt: say('')


def command_site(action: str, out='_site', port: int = 8000, book=None, say=print):
    "What `cifar_nb site ACTION` does."
    if action == 'build': build_site(out, book, say)
    elif action == 'serve': serve_site(out, port, say)
    else: raise InputError(f'There is no action {action!r}: build or serve.')
