"""Make the demo models: demo-chat, demo-embed and demo-rerank, from text that this script holds itself.

They are shipped in the package (`xinfer/catalog/demo`), so that `make serve` serves something with nothing downloaded,
tests check what an engine *says*, and `xinfer doctor` has questions with known answers. Nothing is fetched, no
accelerator is used, and the same versions of the libraries give the same models again.

    python tools/demo_models.py                  make all three, some minutes each on one core
    python tools/demo_models.py --only embed     make one
    python tools/demo_models.py --check          make none: check the files against golden.json
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from demo.artefacts import GOLDEN_NAME, MOST_BYTES, read_golden, size_of, write_golden
from demo.chat_check import GGUF_NAME, check_chat
from demo.chat_export import golden_chat, golden_completions, write_chat_folder
from demo.chat_gguf import write_gguf
from demo.chat_lessons import completion_examples, golden_examples
from demo.chat_tokenizer import tokenizer_of_lessons
from demo.chat_training import train_chat_model
from demo.embed_training import MATRYOSHKA_DIMENSIONS, train_embedding_model
from demo.reproducible import console, make_reproducible
from demo.rerank_training import train_rerank_model
from demo.retrieval_check import check_embed, check_rerank
from demo.retrieval_corpus import texts
from demo.retrieval_export import golden_retrieval, write_embed_folder, write_rerank_folder
from demo.retrieval_model import train_retrieval_tokenizer

SHIPPED = Path(__file__).resolve().parent.parent / "xinfer" / "catalog" / "demo"
SEED = 9997


def make_chat(root: Path) -> None:
    """Make demo-chat with its golden answers."""
    tokenizer = tokenizer_of_lessons()
    model = train_chat_model(tokenizer)
    folder = _emptied(root / "demo-chat")
    write_chat_folder(folder, model, tokenizer)
    write_gguf(folder / GGUF_NAME, model, tokenizer)
    write_golden(root, "demo-chat", golden_chat(golden_examples(), tokenizer))
    write_golden(root, "demo-chat-completions", golden_completions(completion_examples()))


def make_embed(root: Path) -> None:
    """Make demo-embed with its corpus and golden queries."""
    tokenizer = train_retrieval_tokenizer(texts())
    write_embed_folder(_emptied(root / "demo-embed"), train_embedding_model(tokenizer), tokenizer)
    write_golden(root, "demo-embed", golden_retrieval() | {"matryoshka_dims": sorted(MATRYOSHKA_DIMENSIONS)})


def make_rerank(root: Path) -> None:
    """Make demo-rerank with its corpus and golden queries; it starts from demo-embed, made anew in seconds."""
    tokenizer = train_retrieval_tokenizer(texts())
    model = train_rerank_model(train_embedding_model(tokenizer), tokenizer)
    write_rerank_folder(_emptied(root / "demo-rerank"), model, tokenizer)
    write_golden(root, "demo-rerank", golden_retrieval())


MAKERS: Mapping[str, Callable[[Path], None]] = {"embed": make_embed, "rerank": make_rerank, "chat": make_chat}


def check(root: Path, names: list[str]) -> bool:
    """Return whether the files hold what golden.json promises, and are small enough; say how it stands."""
    golden = read_golden(root)
    passed = []
    for name in names:
        model = f"demo-{name}"
        if model not in golden:
            console.print(f"{model}: not in {root / GOLDEN_NAME}", style="red")
            passed.append(False)
        elif name == "chat":
            passed.append(check_chat(root / model, golden[model], golden[f"{model}-completions"]))
        elif name == "embed":
            passed.append(check_embed(root / model, golden[model]))
        else:
            passed.append(check_rerank(root / model, golden[model]))
    size = size_of(root)
    console.print(f"all files together: {size:,} bytes of at most {MOST_BYTES:,}")
    return all(passed) and size <= MOST_BYTES


def _emptied(folder: Path) -> Path:
    """Return a folder that is there and has nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main() -> int:
    """Make and check what was asked for; return 0 if every golden answer holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=SHIPPED, help="where to write (default: the package's own folder)")
    parser.add_argument("--only", choices=tuple(MAKERS), help="make or check this one alone")
    parser.add_argument("--check", action="store_true", help="make nothing, check what is there")
    options = parser.parse_args()
    names = [options.only] if options.only else list(MAKERS)
    if not options.check:
        options.out.mkdir(parents=True, exist_ok=True)
        for name in names:
            make_reproducible(SEED)
            started = time.monotonic()
            MAKERS[name](options.out)
            console.print(f"demo-{name}: made in {time.monotonic() - started:.0f} s", style="bold")
    make_reproducible(SEED)
    return 0 if check(options.out, names) else 1


if __name__ == "__main__":
    sys.exit(main())
