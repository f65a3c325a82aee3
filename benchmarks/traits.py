"""Whether trait vectors work: do scores follow personas, and do answers follow steering?

    python -m benchmarks.traits [-c demo] [--questions 20] [--tokens 40] [--dose 0.4]

Runs on the config's model with its vectors (for the demo config, run `make demo` first). For each
trait, it uses the evaluation questions, from which no vector was built:

scores    Generates answers under positive and negative personas: the five pairs in turn, one answer
          per question and side. Gives the mean calibrated score of either side, at the layer that
          the monitor reads.
steering  Generates answers without a persona, by transformers' generate under ActivationSteerer at
          the same layer, with coefficients −c, 0 and +c. c is chosen so that |c|·‖v‖/‖h‖ is --dose.
          The likelihood-ratio judge scores each answer (0–100, 50 is neutral); it reads unsteered.

In brackets: the standard error of the difference over questions. There is one seed, and nothing is
chosen by its result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from benchmarks.case import prompt_ids
from traitcli.config import Config, ModelConfig, load_config
from traitcli.generation.decode import decode
from traitcli.generation.detokenize import token_texts
from traitcli.generation.projections import Probe, ProjectionReader, make_probes
from traitcli.generation.request import Request
from traitcli.generation.sampling import derive_seed
from traitcli.interventions import Push
from traitcli.judging.backend import Answer
from traitcli.judging.likelihood import LikelihoodJudge
from traitcli.models.load import load_model
from traitcli.models.loaded import LoadedModel
from traitcli.models.padding import left_pad
from traitcli.models.prompts import persona_messages, render
from traitcli.models.steerer import ActivationSteerer
from traitcli.records import POLARITIES, Judgement, Polarity, Trait
from traitcli.steering.interventions import PreparedIntervention, measure_doses
from traitcli.traits.definitions import find_traits, load_trait
from traitcli.vectors.files import load_vectors


@dataclass(frozen=True)
class Comparison:
    """Means of two sides of a trait, and of their paired difference with its standard error."""

    low: float
    middle: float | None
    high: float
    difference: float
    error: float

    @classmethod
    def of(
        cls, low: Sequence[float], middle: Sequence[float] | None, high: Sequence[float]
    ) -> Comparison:
        # Paired by question: questions differ by more than the sides do.
        differences = np.subtract(high, low)
        error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
        middle_mean = fmean(middle) if middle else None
        return cls(fmean(low), middle_mean, fmean(high), float(differences.mean()), error)


@dataclass(frozen=True)
class OneModel:
    """A model provider that gives the judge the model that generated the answers."""

    config: ModelConfig
    loaded: LoadedModel

    def load(self, config: ModelConfig) -> LoadedModel:
        return self.loaded


def compare_personas(
    loaded: LoadedModel, trait: Trait, probe: Probe, config: Config, count: int
) -> Comparison:
    """Mean calibrated scores of answers under negative and positive personas."""
    means: dict[str, list[float]] = {}
    for side in POLARITIES:
        requests = []
        for number, question in enumerate(trait.evaluation_questions[:count]):
            requests.append(persona_request(loaded, trait, side, number, question, config))
        reader = ProjectionReader([probe], loaded)
        # The reader keeps the scores; the steps themselves are not needed.
        for _ in decode(loaded, requests, config.extract.sampling, len(requests), reader):
            pass
        means[side] = []
        for index in range(len(requests)):
            scores = reader.finished[index].response[:, 0]
            mean = float(probe.calibrate(scores).mean()) if len(scores) else 0.0
            means[side].append(mean)
    return Comparison.of(means["negative"], None, means["positive"])


def persona_request(
    loaded: LoadedModel,
    trait: Trait,
    side: Polarity,
    number: int,
    question: str,
    config: Config,
) -> Request:
    """A question under the persona of one side, the pairs in turn."""
    persona = trait.persona(side, number % len(trait.pairs))
    messages = persona_messages(persona, question, loaded.persona_in)
    seed = derive_seed(config.monitor.seed, f"{trait.name}-{side}-{number}")
    return Request(render(loaded.tokenizer, messages).ids, seed)


def generate_steered(
    loaded: LoadedModel, questions: Sequence[str], probe: Probe, coefficient: float, config: Config
) -> list[str]:
    """Answers of transformers' generate, steered at the last position of each pass."""
    prompts = [prompt_ids(loaded, question) for question in questions]
    ids, mask = left_pad(prompts, loaded.tokenizer.pad_token_id, loaded.device)
    direction = probe.vector.directions[probe.position][probe.layer]
    sampling = config.extract.sampling
    # The same random numbers for every coefficient: answers differ by the steering alone.
    torch.manual_seed(config.monitor.seed)
    with ActivationSteerer(loaded.model, direction, coefficient, probe.layer - 1, "response"):
        generated = loaded.model.generate(
            ids,
            attention_mask=mask.long(),
            do_sample=True,
            temperature=sampling.temperature,
            top_k=0,
            max_new_tokens=sampling.max_new_tokens,
            pad_token_id=loaded.tokenizer.pad_token_id,
        )
    answers = []
    for tokens in generated[:, ids.shape[1] :].tolist():
        # After its stop token, an answer is padded to the length of the longest.
        ends = (index for index, token in enumerate(tokens) if token in loaded.stop_ids)
        end = next(ends, len(tokens))
        answers.append("".join(token_texts(loaded.tokenizer, tokens[:end])))
    return answers


def compare_steering(
    loaded: LoadedModel,
    judge: LikelihoodJudge,
    trait: Trait,
    probe: Probe,
    config: Config,
    options: argparse.Namespace,
) -> tuple[Comparison, float]:
    """Likelihood-ratio scores of answers under −c, 0 and +c; and c."""
    questions = trait.evaluation_questions[: options.questions]
    direction = probe.vector.directions[probe.position][probe.layer]
    unit = PreparedIntervention(Push(trait.name, 1.0, probe.layer), direction)
    [measured] = measure_doses(loaded, [unit], prompt_ids(loaded, questions[0]))
    coefficient = options.dose / measured.intervention.dose

    scores: dict[float, list[float]] = {}
    for factor in (-1.0, 0.0, 1.0):
        texts = generate_steered(loaded, questions, probe, factor * coefficient, config)
        scores[factor] = judge_texts(judge, trait, questions, texts)
        if options.show:
            print(f"{trait.name} × {factor * coefficient:+.1f}: {texts[0]!r}", file=sys.stderr)
    return Comparison.of(scores[-1.0], scores[0.0], scores[1.0]), coefficient


def judge_texts(
    judge: LikelihoodJudge, trait: Trait, questions: Sequence[str], texts: Sequence[str]
) -> list[float]:
    """The score of each answer, 0–100, by other pairs than the one in turn."""
    answers = []
    for number, (question, text) in enumerate(zip(questions, texts, strict=True)):
        pair = trait.evaluation_questions.index(question) % len(trait.pairs)
        answers.append(Answer(str(number), "positive", pair, question, text))
    judgements: list[Judgement] = []
    judge.score(trait, answers, judgements.extend)
    by_id = {one.rollout: one.score.value for one in judgements}
    values = [by_id[answer.rollout] for answer in answers]
    # An empty answer has no score, and both personas explain it equally well.
    return [50.0 if value is None else value for value in values]


def print_table(header: str, rows: Iterable[str]) -> None:
    """A table in Markdown."""
    rule = "|---" * (header.count("|") - 1) + "|"
    print(header, rule, *rows, sep="\n")


def main() -> int:
    """Measure and print two tables in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-c", "--config", default="demo")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--dose", type=float, default=0.4)
    parser.add_argument("--show", action="store_true", help="print an answer per coefficient")
    options = parser.parse_args()

    config = load_config(options.config, [f"extract.sampling.max_new_tokens={options.tokens}"])
    loaded = load_model(config.model)
    judge_config = config.judge.likelihood.model_copy(update={"pairs": 4})
    judge = LikelihoodJudge(judge_config, OneModel(config.model, loaded))
    probes = make_probes(load_vectors(config).values(), loaded, config.vector.position)

    scores, steering = [], []
    scores_right = steering_right = 0
    for name, probe in probes.items():
        trait = load_trait(find_traits(config.paths.traits)[name])
        seen = compare_personas(loaded, trait, probe, config, options.questions)
        scores.append(
            f"| {name} | {seen.low:+.2f} | {seen.high:+.2f} "
            f"| {seen.difference:+.2f} ({seen.error:.2f}) |"
        )
        moved, coefficient = compare_steering(loaded, judge, trait, probe, config, options)
        steering.append(
            f"| {name} | {coefficient:.1f} | {moved.low:.0f} | {moved.middle:.0f} "
            f"| {moved.high:.0f} | {moved.difference:+.0f} ({moved.error:.0f}) |"
        )
        scores_right += seen.difference > 0
        steering_right += moved.difference > 0
        # A whole run takes minutes, so each trait is shown when it is done.
        print(scores[-1], steering[-1], file=sys.stderr)

    count = len(probes)
    print_table("| trait | negative personas | positive personas | difference |", scores)
    print(f"\n{scores_right} of {count} in the right direction (wanted: 6 of 8)\n")
    print_table("| trait | c | by −c | by 0 | by +c | difference |", steering)
    print(f"\n{steering_right} of {count} in the right direction (wanted: 5 of 8)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
