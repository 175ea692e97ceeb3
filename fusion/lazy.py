"""A dictionary whose values are imported when they are first asked for: tables of methods and studies that cost nothing to name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module


class Lazy(Mapping):
    """`name -> getattr(module PACKAGE.name, attribute)`, in the order of `names`; without `attribute` the module itself.

    A dash in a name stands for an underscore in its module's.
    """

    def __init__(self, names: Sequence[str], package: str, attribute: str | None = None):
        self._names, self._package, self._attribute = tuple(names), package, attribute

    def __getitem__(self, name: str):
        if name not in self._names:
            raise KeyError(name)
        module = import_module(f"{self._package}.{name.replace('-', '_')}")
        return module if self._attribute is None else getattr(module, self._attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
