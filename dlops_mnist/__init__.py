"From a folder of images to a trained, tracked, evaluated model: the package that the notebooks in `nbs/` export."

import importlib.util
import sys

__version__ = "0.1.0"

# The names of the series, each with the module that defines it. They are loaded when first used, so that
# `import dlops_mnist` costs nothing and a program that only reads a config never waits for PyTorch.
_HOMES = {
    "parts.core": ["UserError"],
    "dataset": ["MNISTDataModule", "fingerprint"],
    "models": ["MNISTModule", "load_module"],
    "networks": ["CNN", "MLP", "FastCNN", "RandomShift", "fit"],
    "parts.settings": ["deep_update"],
    "config": ["diff", "load_config"],
    "parts.runfolder": ["Run"],
    "runs": ["plot_runs", "runs_table"],
    "tracking": ["ImageClassificationReport", "WandBCallback"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

# what the series' scripts take for granted after `from dlops_mnist import *`
_MODULES = {"Path": ("pathlib", "Path"), "pl": ("pytorch_lightning", None), "torch": ("torch", None)}

__all__ = sorted([*_HOME_OF, *_MODULES])

# Modules under the names that they had once: people's scripts and settings still say `dlops_mnist.recipe.FastCNN`.
MOVED = {name: f"parts.{name}" for name in (
    "batches", "callbacks", "command", "compose", "core", "figures", "folder", "images", "launch", "loggers", "metrics",
    "runfolder", "sources", "targets", "yamlfile")} | {
        "base": "parts.settings", "compare": "evaluate", "repeat": "parts.provenance", "recipe": "networks", "parts.recipe": "networks",
        "picture": "parts.figures", "parts.picture": "parts.figures"}


class _Moved:  # a finder and a loader; their base classes take longer to import than the package
    def find_spec(self, name, path=None, target=None):
        package, _, module = name.partition(".")
        return importlib.util.spec_from_loader(name, self) if package == __name__ and module in MOVED else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        old = module.__name__
        sys.modules[old] = importlib.import_module(f"{__name__}.{MOVED[old.partition('.')[2]]}")


sys.meta_path.append(_Moved())


def __getattr__(name: str):
    from importlib import import_module

    if name in _MODULES:
        module, attribute = _MODULES[name]
        value = import_module(module)
        value = getattr(value, attribute) if attribute else value
    elif name in _HOME_OF:
        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])
