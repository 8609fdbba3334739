"Package metadata comes from settings.ini, so that nbdev and pip read the same file."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]

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
)
