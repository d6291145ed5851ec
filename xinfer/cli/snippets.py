"""How to call a model that was just launched: one line of curl, and the openai client."""

import json
import shlex
from typing import Any

from xinfer.client import Model
from xinfer.ops import Kind

_CHAT_LINES = """reply = client.chat.completions.create(
    model="{uid}", messages=[{{"role": "user", "content": "Hello!"}}]
)
print(reply.choices[0].message.content)"""

_IMAGE_LINES = """import base64

picture = base64.b64encode(open("picture.png", "rb").read()).decode()
reply = client.chat.completions.create(
    model="{uid}",
    messages=[{{"role": "user", "content": [
        {{"type": "image_url", "image_url": {{"url": f"data:image/png;base64,{{picture}}"}}}},
        {{"type": "text", "text": "What is this?"}},
    ]}}],
)
print(reply.choices[0].message.content)"""

_RECORDING_LINES = """with open("recording.wav", "rb") as recording:
    print(client.audio.transcriptions.create(model="{uid}", file=recording).text)"""

_EMBEDDING_LINES = """reply = client.embeddings.create(model="{uid}", input=["Hello!"])
print(len(reply.data[0].embedding))"""


def how_to_call(base_url: str, model: Model) -> str:
    """A text with commands that work as they stand."""
    if model.model_type == Kind.EMBEDDING:
        return _curl(base_url, "/v1/embeddings", {"model": model.id, "input": ["Hello!"]}) + _python(
            base_url, _EMBEDDING_LINES.format(uid=model.id)
        )
    if model.model_type == Kind.RERANK:
        body = {"model": model.id, "query": "What is a cat?", "documents": ["A cat is an animal.", "Rain is water."]}
        return _curl(base_url, "/v1/rerank", body)
    if model.model_type == Kind.SPEECH_RECOGNITION:
        form = f"-F {shlex.quote(f'model={model.id}')} -F file=@recording.wav"
        return f"\nWith curl:\n  curl {base_url}/v1/audio/transcriptions {form}\n" + _python(
            base_url, _RECORDING_LINES.format(uid=model.id)
        )
    lines = _IMAGE_LINES if "vision" in model.model_ability else _CHAT_LINES
    question = {"model": model.id, "messages": [{"role": "user", "content": "Hello!"}]}
    return (
        f"\nTalk to it:\n  xinfer chat {model.id}\n"
        + _curl(base_url, "/v1/chat/completions", question)
        + _python(base_url, lines.format(uid=model.id))
    )


def _curl(base_url: str, path: str, body: dict[str, Any]) -> str:
    text = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
    return f"\nWith curl:\n  curl {base_url}{path} -H 'content-type: application/json' \\\n    -d '{text}'\n"


def _python(base_url: str, lines: str) -> str:
    head = f'from openai import OpenAI\n\nclient = OpenAI(base_url="{base_url}/v1", api_key="none")\n'
    indented = "\n".join(f"  {line}".rstrip() for line in (head + lines).splitlines())
    return f"\nWith Python (pip install openai):\n{indented}\n"
