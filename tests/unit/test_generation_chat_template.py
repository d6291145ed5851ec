"""Chat templates as model folders have them: what they may do, and how what they refuse reaches the client."""

import json

import pytest

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.generation.chat_template import ChatTemplate, load_chat_template, template_text

TURNS = "{% for message in messages %}<{{ message.role }}>{{ message['content'] }}</s>\n{% endfor %}"
USER = {"role": "user", "content": "hi"}


def render(source: str, messages=(USER,), tools=None, special_tokens=None, **arguments) -> str:
    return ChatTemplate(source, special_tokens or {}).render(messages, tools, arguments)


def test_messages_become_a_prompt():
    assert render(TURNS, [{"role": "system", "content": "be brief"}, USER]) == "<system>be brief</s>\n<user>hi</s>\n"


def test_what_templates_expect_to_find():
    assert (
        render("{{ bos_token }}{% if add_generation_prompt %}go{% endif %}", special_tokens={"bos_token": "<s>"})
        == "<s>go"
    )
    assert (
        render("{{ messages | tojson }}", [{"role": "user", "content": "<é>"}])
        == '[{"role": "user", "content": "<é>"}]'
    )
    assert render("{{ messages[0] | tojson(indent=1) }}") == json.dumps(USER, indent=1)
    assert render("{% generation %}body{% endgeneration %}") == "body"
    assert render("{% for message in messages %}{% break %}{% endfor %}done") == "done"
    assert len(render("{{ strftime_now('%Y-%m-%d') }}")) == 10
    assert render("{% if x is defined %}{{ x }}{% endif %}", x=3) == "3"


def test_blocks_leave_no_white_space():
    assert render("{% if true %}\n  a\n  {% endif %}\nb") == "  a\nb"


def test_parts_become_one_text_unless_the_template_reads_parts():
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert render("{{ messages[0].content }}", parts) == "a\nb"
    reads_parts = "{% for part in messages[0]['content'] %}[{{ part.text }}]{% endfor %}"
    assert render(reads_parts, parts) == "[a][b]"


def test_a_text_becomes_a_part_where_the_template_reads_nothing_else():
    """That of SmolVLM: the letters of a text are no parts to it."""
    source = (
        "{% for message in messages %}{{ message['role'] }}"
        "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
        "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}{% endif %}{% endfor %}"
        "|{% endfor %}"
    )
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = [{"role": "system", "content": parts}, USER, {"role": "assistant", "content": None, "refusal": "no"}]
    assert render(source, turns) == "system: ab|user: hi|assistant: |"


def test_parts_of_others_than_users_become_one_text():
    """GLM 4.5 writes out the parts of a tool as they are, and Gemma 3 reads the first one of the system."""
    source = (
        "{{ messages[0].content if messages[0].content is string else messages[0].content[0].text }}|"
        "{% for m in messages[1:] %}{% if m.content is string %}{{ m.content }}"
        "{% else %}{% for part in m.content %}{{ part }}{% endfor %}{% endif %}|{% endfor %}"
    )
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    shown = render(source, [{"role": role, "content": parts} for role in ("system", "tool", "assistant", "user")])
    assert shown == f"a\nb|a\nb|a\nb|{parts[0]}{parts[1]}|"


@pytest.mark.parametrize("content", ["e ", " So,\n", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]])
@pytest.mark.parametrize("source", [TURNS, "{% for m in messages %}[{{ m.content | trim }}</s>]{% endfor %}go"])
def test_the_last_message_can_be_left_open(source, content):
    turns = [USER, {"role": "assistant", "content": content}]
    prompt = ChatTemplate(source, {}).render(turns, None, {}, continued=True)
    text = content if isinstance(content, str) else "a\nb"
    assert prompt.endswith(text if source == TURNS else f"[{text.lstrip()}")
    assert "go" not in prompt


def test_a_last_message_that_is_not_shown_cannot_be_continued():
    with pytest.raises(InvalidRequest) as caught:
        ChatTemplate("{{ messages[0].content }}", {}).render([USER, USER], None, {}, continued=True)
    assert caught.value.param == "continue_final_message"


def test_an_empty_list_of_calls_is_none():
    source = "{% for m in messages %}{{ 'calls' if 'tool_calls' in m else m.content }}{% endfor %}"
    assert render(source, [{"role": "assistant", "content": "x", "tool_calls": []}]) == "x"


def test_arguments_of_earlier_calls_become_objects():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    source = "{{ messages[0].content }}{{ messages[0].tool_calls[0].function.arguments.a }}"
    assert render(source, [message]) == "1"
    call["function"]["arguments"] = "{broken"
    with pytest.raises(InvalidRequest) as caught:
        render(source, [message])
    assert caught.value.param == "messages[0].tool_calls[0].function.arguments"


@pytest.mark.parametrize(
    "source",
    [
        "{{ '<x>' + arguments + '</x>' }}",
        "{{ '<x>' ~ arguments ~ '</x>' }}",
        "<x>{{ arguments }}</x>",
        "<x>{% if arguments is string %}{{ arguments }}{% else %}{{ arguments | tojson }}{% endif %}</x>",
        "<x>{{ arguments | string }}</x>",
        '<x>{% for key, value in arguments.items() %}{"{{ key }}": "{{ value }}"}{% endfor %}</x>',
    ],
)
def test_arguments_can_be_written_out_as_well_as_looked_into(source):
    # DeepSeek's templates join them to text, Llama's make JSON of them, GLM's take them apart.
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"<a>": "é"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    named = "{% set arguments = messages[0].tool_calls[0].function.arguments %}"
    assert render(named + source, [message]) == '<x>{"<a>": "é"}</x>'


@pytest.mark.parametrize("arguments", ['{"a": ', '{"a": NaN}', '"\\ud83d"', "1" * 6000])
def test_arguments_that_no_prompt_can_hold_are_refused_at_their_place(arguments):
    calls = [{"type": "function", "function": {"name": "f", "arguments": arguments}}]
    with pytest.raises(InvalidRequest, match="must hold valid JSON") as caught:
        render(
            "{{ messages[0].tool_calls[0].function.arguments | tojson }}", [{"role": "assistant", "tool_calls": calls}]
        )
    assert caught.value.param == "messages[0].tool_calls[0].function.arguments"


def test_thoughts_in_the_history_have_several_names():
    message = {"role": "assistant", "content": "a", "reasoning": "hm"}
    assert render("{{ messages[0].reasoning_content }}", [message]) == "hm"
    assert render("{{ messages[0].reasoning_content }}", [{**message, "reasoning_content": "so"}]) == "so"
    assert render("{{ messages[0].thinking }}", [message]) == "hm"
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert render("{{ messages[0].thinking }}", [{**message, "content": "", "tool_calls": [call]}]) == "hm"
    assert render("{{ messages[0].thinking }}", [{**message, "tool_calls": [call]}]) == ""  # gpt-oss refuses both


def test_developer_is_called_system_where_the_template_knows_no_developer():
    message = {"role": "developer", "content": "x"}
    assert render(TURNS, [message]) == "<system>x</s>\n"
    assert render("{# developer #}" + TURNS, [message]) == "<developer>x</s>\n"


def test_developer_is_called_system_where_the_template_refuses_it():
    """That of Apertus has a part for developers, which no message makes."""
    source = (
        "<developer>be kind</developer>{% for m in messages %}{% if m.role not in ('system', 'user') %}"
        "{{ raise_exception('Invalid message role') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    shown = render(source, [{"role": "developer", "content": "x"}, USER])
    assert shown == "<developer>be kind</developer><system>x<user>hi"


@pytest.mark.parametrize("told", [{}, {"description": None, "parameters": None}, {"parameters": {"type": "object"}}])
def test_what_a_tool_may_leave_out_is_there_for_templates_that_ask_for_it(told):
    """Those of gpt-oss and Hermes join descriptions to text and look into the properties."""
    tools = [{"type": "function", "function": {"name": "f", **told}}]
    asking = (
        "{% for tool in tools %}{{ tool.function.name + ':' + tool.function.description }}"
        "{% for name in tool.function.parameters.properties %}{{ name }}{% endfor %}{% endfor %}"
    )
    assert render(asking, tools=tools) == "f:"
    assert json.loads(render("{{ tools | tojson }}", tools=tools)) == tools  # as it came, where nobody asks for more
    with pytest.raises(InvalidRequest, match="no way"):
        render("{% if tools %}{{ raise_exception('no way') }}{% endif %}", tools=tools)


def test_what_the_template_refuses_is_a_400_in_its_own_words():
    with pytest.raises(InvalidRequest, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.param == "messages"
    for source in ("{{ messages[0].content + 1 }}", "{{ messages.nothing.at_all }}", "{{ 1 // 0 }}"):
        with pytest.raises(InvalidRequest):
            render(source)


def test_nothing_is_silently_ignored():
    with pytest.raises(UnsupportedParameter) as caught:
        render(TURNS, tools=[{"type": "function"}])
    assert caught.value.param == "tools"
    with pytest.raises(UnsupportedParameter) as caught:
        render(TURNS, enable_thinking=True)
    assert caught.value.param == "enable_thinking"
    assert render(TURNS, enable_thinking=False)  # what happens anyway
    for taken in ("messages", "tools", "raise_exception"):
        with pytest.raises(UnsupportedParameter, match=taken):
            ChatTemplate(TURNS, {}).render([USER], None, {taken: []})
    with pytest.raises(UnsupportedParameter, match="documents"):
        render(TURNS, documents=[{"text": "a"}])
    assert render("{{ documents[0].text if documents }}", documents=[{"text": "a"}]) == "a"
    assert render("{{ documents is none }}") == "True"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
    ],
)
def test_templates_are_in_a_sandbox(source):
    with pytest.raises(InvalidRequest):
        render(source)


def test_templates_may_keep_lists():
    """That of Kimi K2 in GGUF files keeps the ids of calls. What belongs to the client stays as it is."""
    source = (
        "{% set kept = namespace(ids=[]) %}{% for message in messages %}{% set _ = kept.ids.append(message.role) %}"
        "{% endfor %}{{ kept.ids.pop(0) }}{% set _ = messages.append(1) %}{{ messages | length }}"
    )
    messages = [USER]
    assert render(source, messages) == "user2"
    assert messages == [USER]


def test_what_filters_give_is_written_as_json():
    assert render("{{ messages | map(attribute='role') | tojson }}") == '["user"]'
    with pytest.raises(InvalidRequest, match="Namespace"):
        render("{{ namespace() | tojson }}")


def test_a_template_that_does_not_compile():
    with pytest.raises(ValueError, match="does not compile"):
        ChatTemplate("{% if %}", {})


def test_where_a_template_comes_from(tmp_path):
    config = tmp_path / "tokenizer_config.json"
    assert load_chat_template(tmp_path) is None
    config.write_text(json.dumps({"bos_token": {"content": "<s>"}}))
    assert load_chat_template(tmp_path) is None
    config.write_text(json.dumps({"bos_token": {"content": "<s>"}, "chat_template": "{{ bos_token }}config"}))
    assert load_chat_template(tmp_path).render([USER], None, {}) == "<s>config"
    named = [{"name": "default", "template": "default"}, {"name": "rag", "template": "rag"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert load_chat_template(tmp_path).render([USER], None, {}) == "default"
    named.append({"name": "tool_use", "template": "{% for tool in tools %}use {{ tool.name }}{% endfor %}"})
    config.write_text(json.dumps({"chat_template": named}))
    assert load_chat_template(tmp_path).render([USER], None, {}) == "default"
    assert load_chat_template(tmp_path).render([USER], [], {}) == "default"
    assert load_chat_template(tmp_path).render([USER], [{"name": "f"}], {}) == "use f"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert load_chat_template(tmp_path).source == "json"
    (tmp_path / "chat_template.jinja").write_text("jinja")
    assert load_chat_template(tmp_path).source == "jinja"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools[0].name }}")
    assert load_chat_template(tmp_path).render([USER], None, {}) == "jinja"
    assert load_chat_template(tmp_path).render([USER], [{"name": "f"}], {}) == "f"
    assert template_text(tmp_path) == "{{ tools[0].name }}"
    config.write_text("{broken")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
        load_chat_template(tmp_path)
