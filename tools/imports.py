"""Which module of the package imports which, read from the sources; lazy imports within functions count, too."""

import ast
from collections.abc import Iterator
from pathlib import Path

from notebooks import mistake, settings


def modules(root: Path) -> dict[str, ast.Module]:
    "The syntax tree of each module, by its name within the package: `config`, `parts.core`."
    library = root / settings(root)["lib_path"]
    paths = {".".join(path.relative_to(library).with_suffix("").parts): path for path in sorted(library.rglob("*.py"))}
    try: return {name: ast.parse(path.read_text("utf-8"), path.relative_to(root)) for name, path in paths.items()}
    except SyntaxError as error:
        mistake(f"{error.filename}, line {error.lineno}: {error.msg}. Where a notebook exports it, `make export` writes it anew.")


def imported(
    tree: ast.Module,  # of the file that imports
    package: str,  # whose modules are meant
    known: set[str],  # their names within the package
    name: str | None = None,  # of the module that imports; None: it lies outside the package
) -> Iterator[str]:
    "Modules of the package that a file imports, by their names within the package."
    def ours(dotted: str) -> str | None:
        inside = dotted.removeprefix(f"{package}.")
        return inside if inside != dotted and inside in known else None

    home = [package, *name.split(".")[:-1]] if name else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): yield from filter(None, (ours(alias.name) for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*home[: len(home) - node.level + 1 if node.level else 0], *filter(None, [node.module])])
            for alias in node.names:
                if (found := ours(f"{base}.{alias.name}") or ours(base)) and found != name: yield found
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and (found := ours(str(first.value))): yield found


def graph(root: Path) -> dict[str, set[str]]:
    "For each module, the modules that it imports."
    trees, package = modules(root), settings(root)["lib_name"]
    return {name: set(imported(tree, package, set(trees), name)) for name, tree in trees.items()}


def importers(imports: dict[str, set[str]], names: set[str]) -> set[str]:
    "The modules of a graph from which a way leads to one of `names`, and these."
    found, new = set(), set(names)
    while new:
        found |= new
        new = {name for name, others in imports.items() if others & found} - found
    return found
