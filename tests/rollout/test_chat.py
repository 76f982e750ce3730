"""Our own policy as a judge: the same question, the same reply, alone or in company."""

import pytest
from helpers import make_tiny

from r1jax.data.tokenizers import SymbolTokenizer
from r1jax.rewards import judge
from r1jax.rollout import SamplingParams
from r1jax.rollout.chat import PolicyChat


class ChatTokenizer(SymbolTokenizer):
    """Digits only; what else is said is left out, so that any judge's prompt can be encoded."""

    def chat(self, messages):
        said = "".join(message["content"] for message in messages)
        return "".join(c for c in said if c.isdigit())[-12:] or "0"


@pytest.fixture(scope="module")
def chat():
    tokenizer = ChatTokenizer("0123456789")
    module, params = make_tiny(vocab_size=len(tokenizer))
    sampling = SamplingParams(max_tokens=10, stop_ids=(tokenizer.eos_token_id,), temperature=1.0)
    return PolicyChat(module, params, tokenizer, sampling)


def said(text):
    return [{"role": "user", "content": text}]


@pytest.mark.slow
def test_a_reply_is_the_same_alone_and_in_company(chat):
    together = chat.replies([said(str(n)) for n in range(8)], seed=3)
    assert [chat(said(str(n)), seed=3) for n in (5, 0)] == [together[5], together[0]]
    assert together != chat.replies([said(str(n)) for n in range(8)], seed=4)


def test_replies_that_were_cut_are_none(chat):
    replies = chat.replies([said(str(n)) for n in range(60)], seed=0)
    ended = [reply for reply in replies if reply is not None]
    assert 0 < len(ended) < len(replies)
    assert all(len(reply) < 10 * len("</answer>") for reply in ended)


def test_it_is_a_judge(chat):
    assert isinstance(chat, judge.Chat)
    # This one has never learned to give a verdict: every judgement is None, and so is the reward.
    assert judge.correctness(chat, "1+1?", "2", "2", judgements=2) is None
