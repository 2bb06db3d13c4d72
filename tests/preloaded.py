"What tests/forks.py imports once."

import hydra._internal.utils  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import pandas  # noqa: F401
import pytorch_lightning  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch  # noqa: F401

import dlops_mnist.evaluate  # noqa: F401
import dlops_mnist.runs  # noqa: F401
import dlops_mnist.tracking  # noqa: F401
import dlops_mnist.train  # noqa: F401
