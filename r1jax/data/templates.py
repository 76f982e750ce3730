"""How a question becomes a prompt: text, then tokens."""

from collections.abc import Mapping
from typing import Any

from r1jax.data.tokenizers import Tokenizer
from r1jax.errors import UserError

# The template of the DeepSeek-R1 paper (Table 1), with its blank for the question.
R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves "
    "it. The assistant first thinks about the reasoning process in the mind and then provides the "
    "user with the answer. The reasoning process and answer are enclosed within <think> </think> "
    "and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> "
    "<answer> answer here </answer>. User: {question}. Assistant:"
)

# For models of a few symbols, which have no words to be instructed with. The prompt opens the
# reasoning; a model that has nothing to work out closes it at once.
SYMBOLS = "{question}<think>"

# The tokenizer's own template of a conversation; there is no text to fill in here.
CHAT = "chat"

TEXTS = {"r1_zero": R1_ZERO, "symbols": SYMBOLS, "raw": "{question}"}
TEMPLATES = (*TEXTS, CHAT)


def render(template: str, question: str) -> str:
    """A template of text with its blank filled."""
    return TEXTS[template].replace("{question}", question)


def prompt_text(
    template: str, item: Mapping[str, Any], tokenizer: Tokenizer, *, system: str = ""
) -> str:
    """The prompt of an item. `chat` takes the item's own messages where it has any."""
    if template != CHAT:
        return render(template, item["question"])
    if not hasattr(tokenizer, "chat"):
        raise UserError(
            "config.data.template='chat': the symbols of a procedural task have no chat template; "
            "start from a checkpoint (config.init_from), or use another template"
        )
    messages = item.get("messages") or [{"role": "user", "content": item["question"]}]
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return tokenizer.chat(messages)  # pyright: ignore[reportAttributeAccessIssue]  # checked above


def prompt_tokens(template: str, text: str, tokenizer: Tokenizer) -> list[int]:
    """Tokens of a prompt, after the BOS that a tokenizer starts texts with.

    A chat template writes its BOS itself. An EOS that a tokenizer puts behind a text is no part of
    a prompt that waits for its answer.
    """
    ids = tokenizer.encode(text)
    if template == CHAT:
        return ids
    start = tokenizer.encode("", add_special_tokens=True)[:1]
    bos = getattr(tokenizer, "bos_token_id", None)
    return [*start, *ids] if start and start[0] == bos else ids


def opens_thinking(text: str) -> bool:
    """True where a prompt itself holds the opening `<think>`, so a response has none."""
    return text.rstrip().endswith("<think>")
