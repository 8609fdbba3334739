"Which notebook cells nbdev_test leaves out, so that other tools can leave out the same ones."
import re
from configparser import ConfigParser
from pathlib import Path

_cfg = ConfigParser(delimiters=["="])
_cfg.read(Path(__file__).parent.parent / "settings.ini", encoding="utf-8")
FLAGS = set(_cfg["DEFAULT"].get("tst_flags", "").split())
DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(\S+)(?:[ \t]+(.*?))?\s*$", re.MULTILINE)


def skipped(source):
    "True for a cell behind `#| eval: false` or a test flag, or one that calls nbdev_export itself."
    found = DIRECTIVE.findall(source)
    return ("nbdev_export(" in source or any(key in FLAGS for key, _ in found)
            or any(key == "eval:" and value.lower().startswith("false") for key, value in found))
