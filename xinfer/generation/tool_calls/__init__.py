"""Tool calls in a model's text, in the forms that are in use.

==============  =====================================================================
forms.py        the form of each family
parser.py       what all parsers have in common: ``feed``, ``flush``, ``CallPart``
json_form.py    arguments in JSON: Hermes, Llama 3, Mistral, DeepSeek, Kimi, gpt-oss
tagged_form.py  every argument between tags: Qwen3-Coder, GLM, MiniMax, DeepSeek V3.2
schemas.py      the tools of a request, and what values without quotes mean
telling.py      what a model is told of its tools where its template does not
==============  =====================================================================

In which form a model writes is told from its chat template, see ``dialects.py``::

    form = tool_form(template)                       # None: the model writes no calls
    parser = form.parser(new_id, read_tools(tools))  # one for each answer
    content, parts = parser.feed(text) ... parser.flush()
    form.grammar(rules, tools, single=False)         # the same form, for calls that are forced
"""

import functools
import itertools
import secrets
from collections.abc import Mapping

from xinfer.errors import InvalidRequest
from xinfer.generation.chat_template import CALLED, ChatTemplate, conversation_with_calls
from xinfer.generation.dialects import Dialect, tool_dialect
from xinfer.generation.tool_calls import forms
from xinfer.generation.tool_calls.json_form import JsonForm
from xinfer.generation.tool_calls.parser import CallPart, ToolCallParser
from xinfer.generation.tool_calls.schemas import Tool, read_tools
from xinfer.generation.tool_calls.tagged_form import TaggedForm
from xinfer.generation.tool_calls.telling import told_of_tools

__all__ = [
    "CallPart",
    "JsonForm",
    "Tool",
    "ToolCallParser",
    "ToolForm",
    "has_tool_calls",
    "new_call_id",
    "read_tools",
    "shows_several_calls",
    "told_of_tools",
    "tool_form",
]

ToolForm = JsonForm | TaggedForm

FORMS: Mapping[Dialect, ToolForm] = {
    Dialect.HERMES: forms.HERMES,
    Dialect.QWEN_XML: forms.QWEN_XML,
    Dialect.LLAMA_JSON: forms.LLAMA,
    Dialect.MISTRAL: forms.MISTRAL_LIST,
    Dialect.DEEPSEEK_V3: forms.DEEPSEEK_V3,
    Dialect.DEEPSEEK_V31: forms.DEEPSEEK_V31,
    Dialect.DEEPSEEK_V32: forms.DEEPSEEK_V32,
    Dialect.DEEPSEEK_V4: forms.DEEPSEEK_V4,
    Dialect.GLM: forms.GLM,
    Dialect.GLM_TIGHT: forms.GLM_TIGHT,
    Dialect.SEED: forms.SEED,
    Dialect.FUNCTIONARY: forms.FUNCTIONARY,
    Dialect.NEMOTRON: forms.NEMOTRON,
    Dialect.APRIEL: forms.APRIEL,
    Dialect.GRANITE: forms.GRANITE,
    Dialect.KIMI: forms.KIMI,
    Dialect.MINIMAX: forms.MINIMAX,
    Dialect.HARMONY: forms.HARMONY,
}


@functools.lru_cache(maxsize=32)
def tool_form(template: str) -> ToolForm | None:
    """How a model with this chat template writes calls; ``None``: it writes none, or in no form that is known here."""
    form = _form_with_the_marks(template)
    if form is None or form is forms.HARMONY:  # which is read behind the splitter of its channels
        return form
    return None if _writes_otherwise(template, form) else form


def _form_with_the_marks(template: str) -> ToolForm | None:
    dialect = tool_dialect(template)
    if dialect is Dialect.MISTRAL:
        return _mistral(template)
    return None if dialect is None else FORMS.get(dialect)


def _writes_otherwise(template: str, form: ToolForm) -> bool:
    """Whether the template shows calls of the model in which this form finds none: some share marks with others."""
    (question, answer, *_), tools = conversation_with_calls(1)
    try:
        compiled = ChatTemplate(template, {})
        shown = compiled.render([question, answer], tools, {"add_generation_prompt": False})
        prompts = [compiled.render([question], tools, {"add_generation_prompt": ends}) for ends in (True, False)]
    except (InvalidRequest, ValueError):
        return False  # it asks for more than this conversation has
    answers = [_behind(prompt, shown) for prompt in prompts]
    if isinstance(form, JsonForm) and form.is_bare:  # marks before it are not seen in an answer (Llama 4)
        answers = [text[max(0, text.find("{")) :] for text in answers]
    return all(CALLED in text for text in answers) and not any(_calls_in(text, form) for text in answers)


def _behind(prompt: str, shown: str) -> str:
    """What of a text is not the beginning of a prompt."""
    same = itertools.takewhile(lambda letters: letters[0] == letters[1], zip(prompt, shown, strict=False))
    return shown[sum(1 for _ in same) :]


def _calls_in(text: str, form: ToolForm) -> int:
    parser = form.parser(lambda: "id", (Tool(CALLED, {}),))
    parser.feed(text)
    parser.flush()
    return parser.count


def _mistral(template: str) -> ToolForm:
    """The family has written calls in four ways; all are read alike, and forced calls are of the template's way."""
    if "[ARGS]" in template:
        return forms.MISTRAL_WITH_IDS if "[CALL_ID]" in template else forms.MISTRAL_NAMED
    return forms.MISTRAL_TIGHT_LIST if "[TOOL_CALLS][" in template else forms.MISTRAL_LIST


def has_tool_calls(template: str) -> bool:
    """Whether calls of a model with this chat template can be read."""
    return tool_form(template) is not None


def shows_several_calls(template: ChatTemplate) -> bool:
    """Whether a conversation in which the model called several tools at once can go on.

    Some templates (that of Llama 3.1) show one call in a turn, and refuse more.
    """
    return _shows(template, calls=2) or not _shows(template, calls=1)  # which refuses any says nothing of several


def _shows(template: ChatTemplate, *, calls: int) -> bool:
    messages, tools = conversation_with_calls(calls)
    try:
        template.render(messages, tools, {})
    except InvalidRequest:
        return False
    return True


def new_call_id(form: ToolForm | None = None) -> str:
    """The id of a call, of the kind that the form's template insists on."""
    if form is None or not form.id_alphabet:
        return f"call_{secrets.token_hex(12)}"
    return "".join(secrets.choice(form.id_alphabet) for _ in range(form.id_length))
