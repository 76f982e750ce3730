"""Tokenizers of transformers: EOS and padding, tags, chat templates, and what is refused."""

import pytest

from r1jax.data.hf_tokenizer import load_tokenizer
from r1jax.data.tokenizers import TAGS
from r1jax.errors import UserError

pytestmark = pytest.mark.oracle
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}assistant:"
WORDS = ["<unk>", "<eos>", "<pad>", "<s>", *TAGS, "two", "plus", "five", "."]


def make_folder(folder, *, special=(), template=None, **tokens):
    """A tokenizer of whole words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.Fuse()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", **tokens)
    fast.add_tokens(list(TAGS), special_tokens=bool(special))
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


def test_text_is_encoded_without_additions_unless_asked(tmp_path):
    tokenizer = load_tokenizer(make_folder(tmp_path, eos_token="<eos>", bos_token="<s>"))
    ids = [WORDS.index(word) for word in ("two", "plus", "five")]
    assert tokenizer.encode("two plus five") == ids
    assert tokenizer.encode("two plus five", add_special_tokens=True) == [WORDS.index("<s>"), *ids]
    assert len(tokenizer) == len(WORDS)
    assert tokenizer.bos_token_id == WORDS.index("<s>")


@pytest.mark.parametrize(
    ("tokens", "pad"),
    [({}, "<eos>"), ({"pad_token": "<pad>"}, "<pad>"), ({"pad_token": "<eos>"}, "<eos>")],
)
def test_eos_pads_where_nothing_else_does(tmp_path, tokens, pad):
    tokenizer = load_tokenizer(make_folder(tmp_path, eos_token="<eos>", **tokens))
    assert tokenizer.eos_token_id == WORDS.index("<eos>")
    assert tokenizer.pad_token_id == WORDS.index(pad)


@pytest.mark.parametrize("special", [False, True])
def test_tags_are_kept_and_the_end_is_not(tmp_path, special):
    folder = make_folder(tmp_path, special=special, eos_token="<eos>", pad_token="<pad>")
    tokenizer = load_tokenizer(folder)
    ids = [WORDS.index(word) for word in ("<think>", "two", "</think>", "<eos>", "<pad>")]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>two</think>"
    assert tokenizer.decode(ids) == "<think>two</think><eos><pad>"


def test_a_chat_template_makes_the_prompt(tmp_path):
    folder = make_folder(tmp_path / "a", eos_token="<eos>", template=TEMPLATE)
    messages = [{"role": "user", "content": "two"}]
    assert load_tokenizer(folder).chat(messages) == "user: two assistant:"
    load_tokenizer(folder).save_pretrained(tmp_path / "b")
    assert load_tokenizer(tmp_path / "b").chat(messages) == "user: two assistant:"
    bare = load_tokenizer(make_folder(tmp_path / "c", eos_token="<eos>"))
    with pytest.raises(UserError, match="no chat template"):
        bare.chat(messages)


def test_a_tokenizer_that_cannot_end_is_refused(tmp_path):
    with pytest.raises(UserError, match="names no EOS"):
        load_tokenizer(make_folder(tmp_path))


def test_a_folder_without_a_tokenizer_says_what_is_wanted(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"tokenizer\.json") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
