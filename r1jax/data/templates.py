"""How a question becomes a prompt."""

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

TEMPLATES = {"r1_zero": R1_ZERO, "symbols": SYMBOLS, "raw": "{question}"}


def render(template: str, question: str) -> str:
    return TEMPLATES[template].replace("{question}", question)


def opens_thinking(template: str) -> bool:
    """True where the prompt itself holds the opening `<think>`, so a response has none."""
    return TEMPLATES[template].endswith("<think>")
