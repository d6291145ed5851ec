"""Special tokens that have to stay visible in a model's text, because parsers look for them."""

from xinfer.generation.reasoning import END, START, reasoning_form
from xinfer.generation.tool_calls import tool_form


def shown_marks(template: str) -> frozenset[str]:
    """The marks around thoughts and tool calls of a model with this chat template.

    The usual tags of thoughts are among them in any case: there are models that write them without their template
    saying so, and nothing else is called like that.
    """
    forms = (tool_form(template), reasoning_form(template))
    return frozenset({START, END}).union(*(form.marks for form in forms if form is not None))
