"""Whether trait vectors do what they say: do their scores follow personas, and do answers follow them?

    python -m benchmarks.traits [-c demo] [--questions 20] [--tokens 40] [--dose 0.4]

On the config's model, with its vectors (for the demo's: `make demo` first), for each trait, on its evaluation
questions, which no vector was built from:

scores    answers under its positive and its negative personas (the five pairs in turn, one answer a question
          and side): mean calibrated score of the answers of either side, at the layer that the monitor reads
steering  answers without a persona, written by transformers' generate under ActivationSteerer at the same layer,
          by −c, 0 and +c, where c is chosen so that the dose |c|·‖v‖/‖h‖ is the one given; the likelihood-ratio
          score (0–100, 50 is neutral) of each answer by the judge, which reads it unsteered, from personas

In brackets: the standard error of the difference, from question to question. One seed; nothing is chosen by result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from traitcli.config import Config, ModelConfig, load_config
from traitcli.generation.decode import decode
from traitcli.generation.detokenize import token_texts
from traitcli.generation.projections import Probe, ProjectionReader, make_probes
from traitcli.generation.request import Request
from traitcli.generation.sampling import derive_seed
from traitcli.judging.backend import Answer
from traitcli.judging.likelihood import LikelihoodJudge
from traitcli.models.load import load_model
from traitcli.models.loaded import LoadedModel
from traitcli.models.padding import left_pad
from traitcli.models.prompts import persona_messages, render
from traitcli.models.steerer import ActivationSteerer
from traitcli.records import POLARITIES, Intervention, Judgement, Trait
from traitcli.steering.interventions import PreparedIntervention, measure_doses
from traitcli.traits.definitions import find_traits, load_trait
from traitcli.vectors.files import load_vectors


@dataclass(frozen=True)
class Table:
    """Numbers of one trait: means of either side, and of their difference with its standard error."""

    low: float
    middle: float | None
    high: float
    difference: float
    error: float

    @classmethod
    def of(
        cls, low: Sequence[float], middle: Sequence[float] | None, high: Sequence[float]
    ) -> Table:
        each = np.subtract(high, low)
        error = float(each.std(ddof=1) / np.sqrt(len(each)))
        return cls(
            fmean(low), fmean(middle) if middle else None, fmean(high), float(each.mean()), error
        )


@dataclass(frozen=True)
class Shelf:
    """Where the judge finds the model that wrote."""

    config: ModelConfig
    loaded: LoadedModel

    def load(self, config: ModelConfig) -> LoadedModel:
        return self.loaded


def scored_under_personas(
    loaded: LoadedModel, trait: Trait, probe: Probe, config: Config, count: int
) -> Table:
    """Mean calibrated scores of answers under negative and positive personas."""
    asked = list(enumerate(trait.evaluation_questions[:count]))
    means: dict[str, list[float]] = {}
    for side in POLARITIES:
        requests = [
            Request(
                render(
                    loaded.tokenizer,
                    persona_messages(
                        trait.persona(side, number % len(trait.pairs)), question, loaded.persona_in
                    ),
                ).ids,
                derive_seed(config.monitor.seed, f"{trait.name}-{side}-{number}"),
            )
            for number, question in asked
        ]
        reader = ProjectionReader([probe], loaded.device)
        for _ in decode(loaded, requests, config.extract.sampling, len(requests), reader):
            pass
        answers = [reader.finished[index].response[:, 0] for index in range(len(requests))]
        means[side] = [
            float(probe.calibrate(scores).mean()) if len(scores) else 0.0 for scores in answers
        ]
    return Table.of(means["negative"], None, means["positive"])


def steered_answers(
    loaded: LoadedModel, questions: Sequence[str], probe: Probe, coefficient: float, config: Config
) -> list[str]:
    """What the model answers while it is pushed; at the last position of each pass, as the monitor does."""
    prompts = [
        render(loaded.tokenizer, [{"role": "user", "content": question}]).ids
        for question in questions
    ]
    ids, mask = left_pad(prompts, loaded.tokenizer.pad_token_id, loaded.device)
    direction, sampling = (
        probe.vector.directions[probe.position][probe.layer],
        config.extract.sampling,
    )
    torch.manual_seed(config.monitor.seed)
    with ActivationSteerer(loaded.model, direction, coefficient, probe.layer - 1, "response"):
        written = loaded.model.generate(
            ids,
            attention_mask=mask.long(),
            do_sample=True,
            temperature=sampling.temperature,
            top_k=0,
            max_new_tokens=sampling.max_new_tokens,
            pad_token_id=loaded.tokenizer.pad_token_id,
        )
    answers = []
    for row in written[:, ids.shape[1] :].tolist():
        end = next((place for place, token in enumerate(row) if token in loaded.stop_ids), len(row))
        answers.append("".join(token_texts(loaded.tokenizer, row[:end])))
    return answers


def judged_under_steering(
    loaded: LoadedModel,
    judge: LikelihoodJudge,
    trait: Trait,
    probe: Probe,
    config: Config,
    asked: argparse.Namespace,
) -> tuple[Table, float]:
    """Likelihood-ratio scores of answers under −c, 0 and +c; and c."""
    questions = trait.evaluation_questions[: asked.questions]
    direction = probe.vector.directions[probe.position][probe.layer]
    prompt = render(loaded.tokenizer, [{"role": "user", "content": questions[0]}]).ids
    [unit] = measure_doses(
        loaded,
        [PreparedIntervention(Intervention(trait.name, 1.0, probe.layer), direction)],
        prompt,
    )
    coefficient = asked.dose / unit.intervention.dose
    scores: dict[float, list[float]] = {}
    for factor in (-1.0, 0.0, 1.0):
        found: list[Judgement] = []
        texts = steered_answers(loaded, questions, probe, factor * coefficient, config)
        answers = [
            Answer(str(number), "positive", number % len(trait.pairs), question, text)
            for number, (question, text) in enumerate(zip(questions, texts, strict=True))
        ]
        judge.score(trait, answers, found.extend)
        by_id = {one.rollout: one.score.value for one in found}
        values = [by_id[answer.rollout] for answer in answers]
        scores[factor] = [
            50.0 if value is None else value for value in values
        ]  # an empty answer says nothing
        if asked.show:
            print(f"{trait.name} × {factor * coefficient:+.1f}: {texts[0]!r}", file=sys.stderr)
    return Table.of(scores[-1.0], scores[0.0], scores[1.0]), coefficient


def main() -> int:
    """Measure and print two tables in Markdown."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("-c", "--config", default="demo")
    options.add_argument("--questions", type=int, default=20)
    options.add_argument("--tokens", type=int, default=40)
    options.add_argument("--dose", type=float, default=0.4)
    options.add_argument(
        "--show", action="store_true", help="print an answer for each trait and push"
    )
    asked = options.parse_args()
    config = load_config(asked.config, [f"extract.sampling.max_new_tokens={asked.tokens}"])
    loaded = load_model(config.model)
    judge = LikelihoodJudge(
        config.judge.likelihood.model_copy(update={"pairs": 4}), Shelf(config.model, loaded)
    )
    probes = make_probes(load_vectors(config).values(), loaded, config.vector.position)
    right = [0, 0]
    rows: list[list[str]] = [[], []]
    for name, probe in probes.items():
        trait = load_trait(find_traits(config.paths.traits)[name])
        seen = scored_under_personas(loaded, trait, probe, config, asked.questions)
        moved, coefficient = judged_under_steering(loaded, judge, trait, probe, config, asked)
        rows[0].append(
            f"| {name} | {seen.low:+.2f} | {seen.high:+.2f} | {seen.difference:+.2f} ({seen.error:.2f}) |"
        )
        rows[1].append(
            f"| {name} | {coefficient:.1f} | {moved.low:.0f} | {moved.middle:.0f} | {moved.high:.0f} "
            f"| {moved.difference:+.0f} ({moved.error:.0f}) |"
        )
        right[0] += seen.difference > 0
        right[1] += moved.difference > 0
        print(rows[0][-1], rows[1][-1], file=sys.stderr)
    print(
        "| trait | negative personas | positive personas | difference |\n|---|---|---|---|",
        *rows[0],
        sep="\n",
    )
    print(f"\n{right[0]} of {len(probes)} in the right direction (wanted: 6 of 8)\n")
    print(
        "| trait | c | by −c | by 0 | by +c | difference |\n|---|---|---|---|---|---|",
        *rows[1],
        sep="\n",
    )
    print(f"\n{right[1]} of {len(probes)} in the right direction (wanted: 5 of 8)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
