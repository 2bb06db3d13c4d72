"""Moved to `figures`; this name goes when its last use has gone."""
from .figures import *
