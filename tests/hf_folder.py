"""A tiny random Qwen2 with a real BPE tokenizer, in the form the hub has them."""

import pathlib

from r1jax import models

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant "
    "solves it. <think> reasoning process here </think> <answer> answer here </answer> "
    "What is 1 + 2? 3 4 5 6 7 8 9 0 caf\u00e9 \u4e2d\u6587 \U0001f600"
)


def make_tokenizer(*, chat: str | None = CHAT, **tokens):
    """Byte-level BPE, as Qwen's: a character may lie across tokens."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([TEXT], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        **{"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"} | tokens,
    )
    fast.chat_template = chat
    return fast


def make_folder(folder: pathlib.Path, *, dtype="float32", seed=0, **changes) -> pathlib.Path:
    tokenizer = make_tokenizer()
    sizes = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 64}
    config = models.ModelConfig(
        **{
            "vocab_size": len(tokenizer) + 5,  # as in real checkpoints: more rows than tokens
            "qkv_bias": True,
            "tied_head": False,
            **sizes,
            **changes,
        }
    )
    models.save_hf(
        *models.from_scratch(config, seed=seed), folder, tokenizer=tokenizer, dtype=dtype
    )
    return folder
