"""What the code of a chat template does, read from its syntax tree."""

from typing import Any

import jinja2.nodes


def iterates_over_content(tree: jinja2.nodes.Template) -> bool:
    """Whether a loop runs over something called content: then the template reads lists of parts by itself."""
    return any(_names_content(loop.iter) for loop in tree.find_all(jinja2.nodes.For))


def tests_for_no_content(tree: jinja2.nodes.Template) -> bool:
    """Whether it asks if something called content is none: then it expects that of messages without a text."""
    return any(test.name == "none" and _names_content(test.node) for test in tree.find_all(jinja2.nodes.Test))


def _names_content(expression: jinja2.nodes.Node) -> bool:
    names = [node.name for node in _with_self(expression, jinja2.nodes.Name)]
    fields = [node.attr for node in _with_self(expression, jinja2.nodes.Getattr)]
    items = [node.arg.value for node in _with_self(expression, jinja2.nodes.Getitem) if _is_constant(node.arg)]
    return "content" in (*names, *fields, *items)


def _with_self(node: jinja2.nodes.Node, kind: type[Any]) -> list[Any]:
    return [*([node] if isinstance(node, kind) else []), *node.find_all(kind)]


def _is_constant(node: jinja2.nodes.Node) -> bool:
    return isinstance(node, jinja2.nodes.Const)
