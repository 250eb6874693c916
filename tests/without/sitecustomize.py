"""Python starts as if the packages that WITHOUT lists, or all that WITH_ONLY does not, were not installed.

Python runs this first of all where the folder is on PYTHONPATH, in every process that a test starts and in
theirs. Of packages beside the standard library only those in WITH_ONLY, where it is set, are found.
"""

import os
import sys
from importlib.machinery import PathFinder

WITHOUT = frozenset(os.environ.get("WITHOUT", "").split())
WITH_ONLY = frozenset(os.environ.get("WITH_ONLY", "").split())


class Finder(PathFinder):
    """PathFinder, blind to some packages."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        package = name.partition(".")[0]
        if package in WITHOUT:
            return None
        spec = super().find_spec(name, path, target)
        if spec is None or not WITH_ONLY or package in WITH_ONLY | sys.stdlib_module_names:
            return spec
        return None if "site-packages" in (spec.origin or "".join(spec.submodule_search_locations)) else spec


sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
