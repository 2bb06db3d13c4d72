"""Make a project of your own: a copy of this repository under another name, with a first commit.

python tools/new.py NAME [FOLDER]        FOLDER: the new project's; beside this repository unless given
"""

import keyword
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
from notebooks import SEAL, find_notebooks, nbdev, seal, settings
from readme import write_readme

EARLIER = ("tests/data/old/", "tests/test_old_files.py")  # runs made by earlier versions: a new project has none


def main(root: Path, name: str, folder: str | None = None) -> None:
    "Write the copy, commit it, and say what one would do next."
    check_name(root, name)
    old, target = settings(root), Path(folder or root.parent / name).expanduser().resolve()
    make_folder(root, target)
    for file in tracked_files(root):
        if not file.relative_to(root).as_posix().startswith(EARLIER): copy(file, root, target, renaming(old["lib_name"], name))
    begin_history(target, old)
    reseal(root, target)
    nbdev("nbdev_export", cwd=target)
    write_readme(target, target)
    print(f"Copied {old['lib_name']} to {target}, where it is called {name}.")
    commit(target, f"A project of its own, made from {old['lib_name']} {old['version']}")
    print(f"Next: cd {target}\n      make test\n      your own images, and experiments/first.yml that names them\n"
          "      your own address: `user` and `author` in settings.ini, then `make links`")


def check_name(root: Path, name: str) -> None:
    "Exit with status 2 unless `name` can be a package that hides nothing."
    if not name: mistake("How shall it be called? make new NAME=my_letters")
    if not can_be_imported(name):
        nearest = re.sub(r"[^a-z0-9]+", "_", name.lower().lstrip("0123456789")).strip("_")
        example = f"NAME={nearest}" if can_be_imported(nearest) else "NAME=my_letters"
        mistake(f"`{name}` can't be the name of a package. Use small letters, digits and _, as in {example}.")
    taken = sys.stdlib_module_names | {path.stem for path in root.iterdir()}
    if name in taken or find_spec(name):
        mistake(f"`{name}` is something else already, which a package of that name would hide. Choose another name.")


def can_be_imported(name: str) -> bool:
    return bool(re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)) and not keyword.iskeyword(name)


def make_folder(root: Path, target: Path) -> None:
    "Make the new project's folder, or exit with status 2."
    if target.exists(): mistake(f"{target} exists already. Choose another name, or name a folder: FOLDER=...")
    if target.is_relative_to(root): mistake(f"{target} lies inside this repository. Choose another: FOLDER=...")
    try: target.mkdir(parents=True)
    except OSError as error: mistake(f"{target} can't be made: {error.strerror}. Choose another: FOLDER=...")


def mistake(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


def tracked_files(root: Path) -> list[Path]:
    "The files that git has, as they are now."
    try: names = git(root, "ls-files", "-z").split("\0")
    except subprocess.CalledProcessError as error: mistake(f"{root} is no clone that git knows: {error.stderr.strip()}")
    return [root / name for name in names if name and (root / name).is_file()]


def git(folder: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=folder, check=True, capture_output=True, text=True).stdout


def renaming(old: str, new: str) -> dict[str, str]:
    "The package's name in each of its spellings, and what stands in its place."
    # the plain one last: where a name has no `_`, it is its own spelling with dashes, and must not get any
    spellings = (lambda name: name.replace("_", "-")), str.upper, (lambda name: name)
    return {spell(old): spell(new) for spell in spellings}


def rename(text: str, names: dict[str, str]) -> str:
    for old, new in names.items(): text = re.sub(rf"(?<![a-zA-Z0-9]){old}(?![a-zA-Z0-9])", new, text)
    return text


def copy(file: Path, root: Path, target: Path, names: dict[str, str]) -> None:
    "Copy one file, with the new name in its path and, if it is text, in its content."
    place = target / rename(file.relative_to(root).as_posix(), names)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(file, place)
    try: text = file.read_bytes().decode()
    except UnicodeDecodeError: return  # a picture
    place.write_bytes(rename(text, names).encode())


def begin_history(target: Path, old: dict[str, str]) -> None:
    "Version 0.0.1, and a changelog that says where all this came from."
    file = target / "settings.ini"
    file.write_text(file.read_text("utf-8").replace(f"version = {old['version']}\n", "version = 0.0.1\n"), "utf-8")
    text = f"# Changes\n\n## 0.0.1\n\n- Begun as a copy of {old['lib_name']} {old['version']} ({old['git_url']}).\n"
    (target / "CHANGELOG.md").write_text(text, "utf-8")


def reseal(root: Path, target: Path) -> None:
    "Give each notebook whose seal was good a seal over its renamed cells and outputs."
    for path in find_notebooks(root):
        before, place = nbformat.read(path, as_version=4), target / path.relative_to(root)
        if before.metadata.get(SEAL) != seal(before): continue
        fresh = seal(nbformat.read(place, as_version=4))
        place.write_text(place.read_text("utf-8").replace(before.metadata[SEAL], fresh), "utf-8")


def commit(target: Path, message: str) -> None:
    "The first commit; without a name and an address of its author, git can't make one, and we say so."
    git(target, "init", "--quiet", "--initial-branch=main")
    git(target, "add", "--all")
    try: git(target, "commit", "--quiet", f"--message={message}")
    except subprocess.CalledProcessError as error:
        print(f"Nothing is committed yet, as git refused:\n{error.stderr.strip()}")


if __name__ == "__main__":
    if not 1 <= len(sys.argv[1:]) <= 2: sys.exit(__doc__)
    main(Path.cwd(), *sys.argv[1:])
