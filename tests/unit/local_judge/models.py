"""Tiny models that often reply with numbers, their provider, and a slow reference."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import torch

from traitcli.config import LocalJudgeConfig, ModelConfig
from traitcli.judging import Answer, prompts
from traitcli.judging.local.digit_tree import vocabulary_texts
from traitcli.judging.local.judge import LocalJudge
from traitcli.models.prompts import render
from traitcli.records import Contrast, Trait

TRAIT = Trait(
    name="grumpy",
    description="",
    meaning=Contrast("grumbles", "is cheerful"),
    adjectives=Contrast("grumpy", "cheerful"),
    pairs=(Contrast("Grumble.", "Smile."),),
    questions=(),
    evaluation_questions=(),
    judge_prompt="You are rating how grumpy an answer from an assistant is. "
    "An answer that wishes nobody ill is not grumpy, "
    "and an answer that is clumsy, mistaken or short is not grumpy for that reason either.\n"
    "Q: {question}\nA: {answer}\nReply with one integer from 0 to 100.",
)
ON_0_10 = prompts.on_scale(TRAIT.judge_prompt, "0_10").removeprefix(TRAIT.judge_prompt)
BINARY = prompts.on_scale(TRAIT.judge_prompt, "binary").removeprefix(TRAIT.judge_prompt)
TEXTS = [
    "No.",
    "Well, why not? 你好",
    "Yes",
    "I will not do that, it is a bad idea, and so are you",
    "What is that? " * 6,
]
ANSWERS = [Answer(f"a{i}", "positive", 0, f"Why {i % 2}?", text) for i, text in enumerate(TEXTS)]


class NumberModel:
    """A model that prefers some tokens; it remembers the shapes of its inputs."""

    def __init__(self, model, bias, weight=1):
        self.model, self.bias, self.weight, self.fed = model, bias, weight, []
        self.config = model.config

    def __call__(self, **inputs):
        self.fed.append(tuple(inputs["input_ids"].shape))
        output = self.model(**inputs)
        output.logits = output.logits * self.weight + self.bias.to(output.logits.device)
        return output


class SingleModelProvider:
    """A model provider that returns one model for every config."""

    def __init__(self, loaded, device="cpu"):
        self.config = ModelConfig(id="models/tiny", device=device)
        self._loaded = loaded
        self.asked = []

    def load(self, config):
        self.asked.append(config)
        return self._loaded


def number_model(loaded, context=4096, **liking):
    """The model with higher logits for some kinds of tokens, so that numbers are likely replies."""
    kinds = {
        "digits": str.isdecimal,
        "whitespace": lambda text: text in {" ", "\n"},
        "words": {"YES", "NO", "Y", "N", "ES", "E", "S", "O"}.__contains__,
    }
    texts = vocabulary_texts(loaded.tokenizer)[: loaded.model.config.vocab_size]
    bias = [sum(by for kind, by in liking.items() if kinds[kind](text)) for text in texts]
    return replace(loaded, model=NumberModel(loaded.model, torch.tensor(bias)), context=context)


def judge_of(loaded, device="cpu", **options):
    return LocalJudge(
        LocalJudgeConfig(**{"coherence": False, "batch_size": 3} | options),
        SingleModelProvider(loaded, device),
    )


def judged(loaded, answers=ANSWERS, **options):
    found = {}
    judge_of(loaded, **options).score(
        TRAIT, answers, lambda some: found.update({j.rollout: j for j in some})
    )
    return found


def values(found):
    return {rollout: judgement.score.value for rollout, judgement in found.items()}


class Naive:
    """Probabilities of replies to one prompt, each from a whole forward pass over all tokens."""

    def __init__(self, loaded, text):
        self.loaded = loaded
        self.prompt = render(loaded.tokenizer, [{"role": "user", "content": text}]).ids
        self.texts = vocabulary_texts(loaded.tokenizer)[: loaded.model.config.vocab_size]
        self.next = cache(self._next)

    @torch.no_grad()
    def _next(self, path):
        ids = torch.tensor([[*self.prompt, *path]])
        logits = self.loaded.model(input_ids=ids, use_cache=False).logits
        return logits[0, -1].double().softmax(-1).tolist()

    def p(self, path):
        return math.prod(self.next(path[:i])[token] for i, token in enumerate(path))

    def whitespace(self):
        """The possible beginnings of a reply: nothing, or one or two likely whitespace tokens."""
        paths = [()]
        for path in paths:
            spaces = (
                [(*path, token) for token, text in enumerate(self.texts) if text.isspace()]
                if len(path) < 2
                else []
            )
            paths += [longer for longer in spaces if self.p(longer) >= 0.01]
        return paths

    def spellings(self, text, is_first=True):
        """All token paths that write a text, with or without whitespace in the first token."""
        if not text:
            return [()]
        return [
            (token, *rest)
            for token, written in enumerate(self.texts)
            if (part := written.lstrip() if is_first else written) and text.startswith(part)
            for rest in self.spellings(text[len(part) :], is_first=False)
        ]

    def number(self, n, open_ended=range(1, 11)):
        """P(the reply begins with n and, for 1 to 10, that no digit follows)."""
        total = 0.0
        for path in (
            first + then for first in self.whitespace() for then in self.spellings(str(n))
        ):
            goes_on = sum(
                p
                for p, text in zip(self.next(path), self.texts, strict=True)
                if text[:1].isdecimal()
            )
            total += self.p(path) * (1 - goes_on if n in open_ended else 1)
        return total


def asked_about(answer):
    return TRAIT.judge_prompt.format(question=answer.question, answer=answer.response.strip())
