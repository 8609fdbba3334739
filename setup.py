"""Package metadata comes from settings.ini, so that nbdev and pip read the same file. What is built
in a clone knows its commit."""
import subprocess
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]

def write_commit(folder):
    """In the copy of the package in `folder`: the commit of this clone, with + where files of the
    package were changed since, for `core.version`. Without a clone or git nothing is written."""
    def git(*argv):
        return subprocess.run(["git", "-C", str(here), *argv], capture_output=True, check=True,
                              encoding="utf-8").stdout.strip()
    if not (here / ".git").exists(): return
    try: head, changed = (git("rev-parse", "HEAD"),
                          git("status", "--porcelain", "-uno", "--", "cifar_nb"))
    except (OSError, subprocess.SubprocessError): return
    file = Path(folder, "cifar_nb", "core", "COMMIT")
    file.unlink(missing_ok=True)  # it may be a link to the clone's own
    file.write_text(head + "+" * bool(changed) + "\n", encoding="utf-8")


class BuildPy(build_py):
    "With the commit in the wheel."
    def run(self):
        super().run()
        if not self.editable_mode: write_commit(self.build_lib)


class Sdist(sdist):
    "With the commit in the sources, from which a wheel is built without git."
    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        write_commit(base_dir)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8")
      if (here / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="MIT",
    keywords=cfg["keywords"].split(),
    packages=find_packages(include=["cifar_nb", "cifar_nb.*"]),
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require={k: cfg[f"{k}_requirements"].split()
                    for k in ("notebook", "search", "kaggle", "log", "docs")}
    | {"dev": " ".join(cfg[f"{k}_requirements"] for k in ("dev", "notebook", "docs")).split()},
    entry_points={
        "console_scripts": [cfg["console_scripts"]],
        "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
    package_data={"cifar_nb": ["core/COMMIT", "weights/*", "kernels/csrc/*",
                               "delivery/site_static/*", "exercises/recorded.json", "py.typed"]},
    include_package_data=True,
    zip_safe=False,
    cmdclass={"build_py": BuildPy, "sdist": Sdist},
)
