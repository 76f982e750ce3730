"""Parts of a reward for runs of several processes; what they import, each grading worker would."""

import time


def late(sample):
    """Nothing; every other question is one that its process waits for."""
    time.sleep(0.05 * (sample.key[2] % 2))
    return 0.0


def steps(sample):
    """1 for each character that is a bit, -1 for another one; the answer is a step too."""
    signs = [1.0 if letter in "01" else -1.0 for letter in sample.text[:-1]]
    answer = (len(sample.text), 1.0 if sample.correct else -1.0)
    return [*((place + 1, sign) for place, sign in enumerate(signs)), answer]
