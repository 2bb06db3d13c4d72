"""Packaging. Everything that may change is read from settings.ini."""
import subprocess
from configparser import ConfigParser
from pathlib import Path
from shutil import copy, rmtree

from setuptools import Command, find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent
settings = ConfigParser(delimiters=["="])
settings.read(ROOT / "settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]

suffix = "_requirements"
extras = {key.removesuffix(suffix): settings[key].split() for key in settings if key.endswith(suffix)}
extras["all"] = sorted({requirement for extra in extras.values() for requirement in extra})


def of_git(name: str) -> list[Path]:
    "The files below a folder that git has; none where there is no git."
    listing = subprocess.run(["git", "ls-files", "-z", name], cwd=ROOT, capture_output=True, text=True)
    return [path for line in listing.stdout.split("\0") if line and (path := ROOT / line).is_file()]


def shipped(name: str) -> list[Path]:
    "The same; where there is no git, as in an sdist, all but hidden ones."
    found = [path for path in (ROOT / name).rglob("*") if not any(part[0] == "." for part in path.relative_to(ROOT).parts)]
    return of_git(name) or [path for path in found if path.is_file()]


def tell_left_out(command: Command, files: list) -> None:
    if files: command.warn(f"left out, as git doesn't have them: {', '.join(map(str, files[:5]))} ({len(files)} in all)")


class BuildWithData(build_py):
    """Packs the modules that git has, and the dataset and the experiments, where a notebook far from the repository finds them."""

    def run(self):
        if not self.editable_mode: rmtree(Path(self.build_lib, lib_name), ignore_errors=True)  # of an earlier build
        super().run()
        if self.editable_mode: return  # there, they lie beside the package
        known = {path.relative_to(ROOT) for path in shipped(lib_name)}
        built = [path for path in Path(self.build_lib, lib_name).rglob("*") if path.is_file()]
        tell_left_out(self, strange := [path for path in built if path.relative_to(self.build_lib) not in known])
        for path in strange: path.unlink()
        for path in [*shipped("dataset"), *shipped("experiments")]:
            place = Path(self.build_lib, lib_name, "shipped", path.relative_to(ROOT))
            place.parent.mkdir(parents=True, exist_ok=True)
            copy(path, place)


class SourcesOfGit(sdist):
    """Packs what git has, and nothing that lies beside it."""

    def make_release_tree(self, base_dir, files):
        known = [path.relative_to(ROOT).as_posix() for path in of_git(".")]
        made = [name for name in files if ".egg-info" in name or name in ("PKG-INFO", "setup.cfg")]
        if known: tell_left_out(self, sorted({Path(name).as_posix() for name in files}.difference(known, made)))
        super().make_release_tree(base_dir, [*made, *known] if known else files)


lib_name, readme = settings["lib_name"], ROOT / "README.md"
setup(
    cmdclass={"build_py": BuildWithData, "sdist": SourcesOfGit},
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
    package_data={lib_name: ["web/*", "*.yaml"]},  # the pages of the service, and the settings that there are
    install_requires=settings["requirements"].split(),
    extras_require=extras,
    zip_safe=False,
)
