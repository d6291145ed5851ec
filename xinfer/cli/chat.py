"""``xinfer chat`` and ``xinfer generate``: a small read-eval-print loop on a running model."""

import contextlib
import sys
from collections.abc import Callable, Generator
from typing import Annotated, Any

import typer
from rich.text import Text

from xinfer.cli.options import ApiKey, Endpoint, connect
from xinfer.cli.screen import complain, err, out
from xinfer.client import Client, Delta
from xinfer.errors import InvalidRequest, XinferError
from xinfer.ops import GENERATIVE_KINDS

with contextlib.suppress(ImportError):
    import readline  # noqa: F401  gives input() line editing and history, where the platform has it

ModelArgument = Annotated[str | None, typer.Argument(help="Uid of the model. Default: the one that runs.")]
ModelUid = Annotated[str | None, typer.Option("-u", "--model-uid", help="The same, as an option.")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", "--max_tokens", min=1, help="Longest answer, in tokens.")
]
Temperature = Annotated[float | None, typer.Option("--temperature", min=0.0, help="0 is the same answer every time.")]


def chat(
    model: ModelArgument = None,
    *,
    model_uid: ModelUid = None,
    system: Annotated[str | None, typer.Option("--system", help="A system message to start with.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    endpoint: Endpoint = None,
    api_key: ApiKey = None,
) -> None:
    """Talk to a model. /reset forgets the conversation, /exit (or ctrl-D) leaves, ctrl-C stops an answer.

    xinfer chat demo-chat --temperature 0

    echo "Hello!" | xinfer chat   [dim]# one question, for scripts[/]
    """
    with connect(endpoint, api_key) as client:
        uid = choose_model(client, model_uid or model)
        conversation = Conversation(client, uid, system, _given(max_tokens=max_tokens, temperature=temperature))
        repl(uid, conversation.ask, conversation.reset)


def generate(
    model: ModelArgument = None,
    *,
    model_uid: ModelUid = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    endpoint: Endpoint = None,
    api_key: ApiKey = None,
) -> None:
    """Let a model continue texts, one by one, without a chat template.

    echo "Once upon a time" | xinfer generate demo-chat --max-tokens 64
    """
    parameters = _given(max_tokens=max_tokens, temperature=temperature)
    with connect(endpoint, api_key) as client:
        uid = choose_model(client, model_uid or model)
        repl(uid, lambda prompt: _print_answer(client.complete(uid, prompt, **parameters)), lambda: None)


class Conversation:
    """What was said so far, and the next turn of it."""

    def __init__(self, client: Client, model_uid: str, system: str | None, parameters: dict[str, Any]) -> None:
        self._client = client
        self._model_uid = model_uid
        self._parameters = parameters
        self._start = [{"role": "system", "content": system}] if system else []
        self.messages = list(self._start)

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = list(self._start)

    def ask(self, text: str) -> None:
        """Print the answer to ``text``. A question that failed is forgotten, a stopped answer is remembered."""
        question = {"role": "user", "content": text}
        answer = _print_answer(self._client.chat(self._model_uid, [*self.messages, question], **self._parameters))
        self.messages += [question, {"role": "assistant", "content": answer}]


def repl(uid: str, answer: Callable[[str], object], reset: Callable[[], object]) -> None:
    """Read lines and answer them until /exit or the end of the input."""
    interactive = sys.stdin.isatty()
    if interactive:
        err.print(f"{uid}: /reset starts anew, /exit or ctrl-D leaves, ctrl-C stops an answer.", style="dim")
    failed = False
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            break
        except KeyboardInterrupt:
            err.print("\n/exit or ctrl-D leaves.", style="dim")
            continue
        if line == "/exit":
            break
        if line == "/reset":
            reset()
            err.print("The conversation is forgotten.", style="dim")
        elif line.startswith("/"):
            err.print(f"{line}: no such command; there are /reset and /exit.", style="dim")
        elif line:
            failed |= not _attempt(answer, line)
    if failed and not interactive:
        raise typer.Exit(1)


def _attempt(answer: Callable[[str], object], line: str) -> bool:
    try:
        answer(line)
    except XinferError as error:
        complain(error.message)
        return False
    return True


def _print_answer(deltas: Generator[Delta, None, None]) -> str:
    """Print an answer while it comes; ctrl-C ends it and the model's work on it. Returns what was said."""
    said: list[str] = []
    with contextlib.closing(deltas):
        try:
            for delta in deltas:
                said.append(delta.text)
                if delta.reasoning:
                    out.print(Text(delta.reasoning, style="dim italic"), end="", soft_wrap=True)
                out.print(Text(delta.text), end="", soft_wrap=True)
        except KeyboardInterrupt:
            err.print(" (stopped)", style="dim", end="")
    out.print()
    return "".join(said)


def choose_model(client: Client, asked: str | None) -> str:
    """The model to talk to: the one that was asked for, else the only language model there is.

    Raises:
        InvalidRequest: there is none, or there are several; the message names them.
    """
    if asked:
        return asked
    candidates = sorted(model.id for model in client.models() if model.model_type in GENERATIVE_KINDS)
    if not candidates:
        raise InvalidRequest("no language model is deployed; launch one: xinfer launch demo-chat")
    if len(candidates) > 1:
        raise InvalidRequest(f"several language models are deployed; name one of: {', '.join(candidates)}")
    return candidates[0]


def _given(**parameters: Any) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if value is not None}


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("chat")(chat)
    app.command("generate")(generate)
