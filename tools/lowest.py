"""The lower bounds of settings.ini as pins, for a trial with the oldest of everything.

    python tools/lowest.py > lowest.txt && pip install -c lowest.txt . pytest hypothesis
"""
from configparser import ConfigParser
from pathlib import Path


def bounds(text: str) -> list:
    "The requirements in `text`, 'torch>=2.4 ...', each with its lower bound as the only version."
    return [r.replace('>=', '==') for r in text.split() if '>=' in r]


if __name__ == '__main__':
    parser = ConfigParser(delimiters=['='])
    parser.read(Path(__file__).resolve().parent.parent / 'settings.ini', encoding='utf-8')
    print(*bounds(parser['DEFAULT']['requirements']), sep='\n')
