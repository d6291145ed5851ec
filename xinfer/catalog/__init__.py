"""What can be served: the built-in models, and what a folder or file holds."""

from xinfer.catalog.adapters import read_adapter
from xinfer.catalog.families import Catalog, builtin
from xinfer.catalog.introspect import introspect, shape_of
from xinfer.catalog.sources import located, resolve_source

__all__ = ["Catalog", "builtin", "introspect", "located", "read_adapter", "resolve_source", "shape_of"]
