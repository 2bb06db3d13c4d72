"""Packaging. Everything that may change is read from settings.ini."""
from configparser import ConfigParser
from pathlib import Path
from shutil import copytree

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
settings = ConfigParser(delimiters=["="])
settings.read(ROOT / "settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]

suffix = "_requirements"
extras = {key.removesuffix(suffix): settings[key].split() for key in settings if key.endswith(suffix)}
extras["all"] = sorted({requirement for extra in extras.values() for requirement in extra})


class BuildWithData(build_py):
    """Puts the dataset and the experiments into the wheel, where a notebook far from the repository finds them."""

    def run(self):
        super().run()
        if self.editable_mode: return  # there, they lie beside the package
        for name in ("dataset", "experiments"):
            copytree(ROOT / name, Path(self.build_lib, lib_name, "shipped", name), dirs_exist_ok=True)


lib_name, readme = settings["lib_name"], ROOT / "README.md"
setup(
    cmdclass={"build_py": BuildWithData},
    name=lib_name,
    version=settings["version"],
    description=settings["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    license_expression={"apache2": "Apache-2.0"}[settings["license"]],
    license_files=["LICENSE"],
    keywords=settings["keywords"].split(),
    python_requires=">=" + settings["min_python"],
    packages=sorted({lib_name, *find_packages(include=[lib_name, lib_name + ".*"])}),
    include_package_data=True,
    install_requires=settings["requirements"].split(),
    extras_require=extras,
    zip_safe=False,
)
