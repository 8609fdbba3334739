"""Whether everything that names the version names the one of a tag, before it is released.

    python tools/release.py v0.2.0

Each disagreement is a sentence, and the exit status is 1. Standard library only.
"""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = {  # file -> where its version stands: the first match counts
    'settings.ini': r'^version = (.+)$',
    'CITATION.cff': r'^version: (.+)$',
    'CHANGELOG.md': r'^## (.+)$',
    'cifar_nb/__init__.py': r'^__version__ = "(.+)"$',
}


def versions(root=ROOT) -> dict:
    "What each of `PLACES` under `root` gives as the version; the changes give their first heading."
    texts = {f: (Path(root) / f).read_text(encoding='utf-8') for f in PLACES}
    found = {f: re.search(pattern, texts[f], re.M) for f, pattern in PLACES.items()}
    return {f: m[1].strip().strip('"\'') if m else 'nothing' for f, m in found.items()}


def problems(tag: str, root=ROOT) -> list:
    "A sentence for each of `PLACES` that does not have the version of `tag` ('v0.2.0')."
    return [f'{f} has {v!r} where the tag {tag} needs {tag.removeprefix("v")!r}.'
            for f, v in versions(root).items() if f'v{v}' != tag]


if __name__ == '__main__':
    if len(sys.argv) != 2: sys.exit('Give one tag: python tools/release.py v0.2.0')
    for sentence in (wrong := problems(sys.argv[1])): print(f'release: {sentence}', file=sys.stderr)
    sys.exit(bool(wrong))
