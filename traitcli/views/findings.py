"""Words what a report shows as three sentences: its vectors, its answers, and the next step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from traitcli.report_records import NamedRecord, Report
from traitcli.views.cells import fit
from traitcli.views.formatting import format_score
from traitcli.views.printable import one_line
from traitcli.views.words import count_text

Row = Mapping[str, Any]

_KNOWN = {
    "carries over": (
        "carries over to answers of another source",
        "carry over to answers of another source",
    ),
    "reads its own texts": ("reads its own texts", "read their own texts"),
    "reads its instruction": (
        "is only known to read its instruction",
        "are only known to read their instruction",
    ),
    "not shown": ("is not shown to read its trait", "are not shown to read their trait"),
}
"""Verdict -> what one vector does, and several; best first."""
_NO_VERDICT = ("has no verdict", "have no verdict")
_OPEN = {
    "reads its own texts": "not shown to carry over to answers of another source",
    "reads its instruction": "not shown to read more than {their} instruction",
    "not shown": "not shown to read {their} trait",
    "carries over": "not tested on all sources",
}
"""Verdict -> what is not known of such vectors; those that need least to reach the best first."""
_TRUSTED = ("carries over", "reads its own texts")
_MOST_NAMES = 8
_MOST_SCORES = 3
_TRAIT_WIDTH = 40
_PROMPT_WIDTH = 60
_LARGEST = 1e300
"""A score of this size counts as missing, as NaN does: a sum of such scores would overflow."""
_READ = 1000
"""Characters of a name or prompt that are looked at: a prompt may be a whole book."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """The score of an answer by a trusted vector.

    answer  index of the record
    title   names the answer, for example `answer to “Hello”`
    vector  row of the vector
    score   mean of the calibrated scores that count
    tokens  how many count
    """

    answer: int
    title: str
    vector: Row
    score: float
    tokens: int

    @property
    def text(self) -> str:
        """`+1.31`, with the threshold if one is stored."""
        return format_score(self.score) + _threshold_text(self)


def findings(report: Report) -> tuple[str, str, str]:
    """What the vectors read, which answers score highest, and what to do next.

    Each is one printable line. A score counts only if all vectors of its model, trait and layer
    separate without their instruction: other scores may show the instruction alone.
    """
    vectors = _named_vectors(report.sets)
    return (
        _vectors_sentence(vectors),
        _answers_sentence(report.records, vectors),
        _next_sentence(vectors),
    )


# Vectors


def _named_vectors(sets: Sequence[Row]) -> list[Row]:
    """The rows of all vectors with a `title`, which names the set if the trait occurs twice."""
    vectors = [(each, vector) for each in sets for vector in each.get("vectors", ())]
    counts = Counter(vector["trait"] for _, vector in vectors)
    named: list[Row] = []
    for each, vector in vectors:
        title = _short(vector["trait"], _TRAIT_WIDTH)
        if counts[vector["trait"]] > 1:
            title += f" ({_short(str(each.get('name', '')), _TRAIT_WIDTH)})"
        named.append({"model": each.get("model"), **vector, "title": title})
    return named


def _vectors_sentence(vectors: Sequence[Row]) -> str:
    groups: dict[tuple[str, str], list[Row]] = {}
    for verdict, words in _KNOWN.items():
        groups[words] = [vector for vector in vectors if vector.get("verdict") == verdict]
    groups[_NO_VERDICT] = [vector for vector in vectors if vector.get("verdict") not in _KNOWN]
    found = {words: group for words, group in groups.items() if group}

    if not vectors:
        return "This report has no trait vectors."
    if len(vectors) == 1:
        [(one, _)] = found
        return f"The vector of {_names(vectors)} {one}."
    if len(found) == 1:
        [(_, several)] = found
        all_of_them = "Both" if len(vectors) == 2 else f"All {len(vectors):,}"
        return f"{all_of_them} vectors {several}: {_names(vectors)}."
    parts = []
    for words, group in found.items():
        parts.append(f"{len(group):,} {words[len(group) > 1]} ({_names(group)})")
    return f"Of {len(vectors):,} vectors, {_join(parts)}."


def _next_sentence(vectors: Sequence[Row]) -> str:
    """What is not known of the vectors that need least, and what most of these need."""
    if not vectors:
        return "Without vectors there is nothing to test. Next, run traitcli extract."
    for verdict, what in _OPEN.items():
        group = [vector for vector in vectors if vector.get("verdict") == verdict]
        steps = Counter(step for vector in group if (step := vector.get("to_raise")))
        if not steps:
            continue
        [(step, _)] = steps.most_common(1)
        group = [vector for vector in group if vector.get("to_raise") == step]
        is_one = len(group) == 1
        names = _names(group) if len(group) <= _MOST_SCORES else f"{len(group):,} vectors"
        open_question = what.format(their="its" if is_one else "their")
        return f"{names} {'is' if is_one else 'are'} {open_question}. Next, {one_line(step)}."
    return "What these vectors read is not known. Next, run traitcli inspect vectors --verbose."


# Answers


def _answers_sentence(records: Sequence[NamedRecord], vectors: Sequence[Row]) -> str:
    if not records:
        return "This report has no monitored answers."
    trusted = _trusted(vectors)
    if not trusted:
        whose = "the answer" if len(records) == 1 else f"{len(records):,} answers"
        return (
            "No vector here is known to read more than its instruction, "
            f"so the scores of {whose} do not show that a trait is there."
        )
    readings = [one for number, each in enumerate(records) for one in _read(number, each, trusted)]
    if not readings:
        whose = "the answer" if len(records) == 1 else f"{len(records):,} answers"
        return (
            f"No calibrated score of {whose} is of a vector here that reads more than its "
            "instruction, at the layer of that vector."
        )

    highest: dict[str, _Reading] = {}
    for one in readings:
        # The first of equal ones stays.
        if (best := highest.get(one.vector["trait"])) is None or one.score > best.score:
            highest[one.vector["trait"]] = one
    ordered = sorted(highest.values(), key=lambda one: -one.score)
    shown = ordered[:_MOST_SCORES]
    parts = [_who_text(shown, len(records))]
    parts.append(_scale_text(shown))
    scored = {trait for each in records for trait in (*each.scores.raw, *each.scores.calibrated)}
    if uncounted := len(scored - highest.keys()):
        do_not, their = ("does", "its vector is") if uncounted == 1 else ("do", "their vectors are")
        parts.append(
            f"{count_text(uncounted, 'other trait')} {do_not} not count, because {their} not known "
            "to read more at that layer"
        )
    return "; ".join(parts) + "."


def _trusted(vectors: Sequence[Row]) -> dict[tuple[Any, ...], Row]:
    """(model, trait, layer) -> vector, for those that all separate without their instruction."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for vector in vectors:
        key = vector.get("model"), vector["trait"], vector.get("layer")
        groups.setdefault(key, []).append(vector)
    return {
        key: group[0]
        for key, group in groups.items()
        if all(vector.get("verdict") in _TRUSTED for vector in group)
    }


def _read(
    number: int, record: NamedRecord, trusted: Mapping[tuple[Any, ...], Row]
) -> Iterator[_Reading]:
    scores = record.scores
    for trait, calibrated in scores.calibrated.items():
        # A verdict holds at the vector's own layer, and the monitor may have read another.
        vector = trusted.get((scores.model, trait, scores.layers.get(trait)))
        if vector is None:
            continue
        values = [calibrated[index] for index in scores.counted(trait)]
        known = [value for value in values if abs(value) < _LARGEST]
        if known:
            mean = math.fsum(known) / len(known)
            yield _Reading(number, _title(record), vector, mean, len(known))


def _title(record: NamedRecord) -> str:
    prompt = _short(record.scores.prompt, _PROMPT_WIDTH)
    title = f"to “{prompt}”" if prompt else f"in {_short(record.name, _PROMPT_WIDTH)}"
    return f"steered answer {title}" if record.scores.steering else f"answer {title}"


def _who_text(shown: Sequence[_Reading], records: int) -> str:
    """`Of 2 answers, the answer to “Hi” scores highest on evil (+1.31)`."""
    by_answer: dict[int, list[_Reading]] = {}
    for one in shown:
        by_answer.setdefault(one.answer, []).append(one)
    if records == 1:
        scores = [f"{one.text} on {one.vector['title']}" for one in shown]
        return f"The {shown[0].title} scores {_join(scores)}"

    parts: list[str] = []
    for group in by_answer.values():
        traits = _join([f"{one.vector['title']} ({one.text})" for one in group])
        parts.append(f"the {group[0].title}{'' if parts else ' scores highest'} on {traits}")
    return f"Of {records:,} answers, {_join(parts)}"


def _scale_text(shown: Sequence[_Reading]) -> str:
    """How the scores lie between the means of the two classes."""
    scale = "−1 and +1 are the means of negative and positive examples, so"
    above = sum(one.score > 0 for one in shown)
    if len(shown) == 1:
        return f"{scale} it is {'' if above else 'not '}nearer to the positive ones"
    if above in (0, len(shown)):
        which = "none of these is" if above == 0 else "these are"
    else:
        which = f"{above} of these {'is' if above == 1 else 'are'}"
    return f"{scale} {which} nearer to the positive ones"


def _threshold_text(reading: _Reading) -> str:
    """`, above the threshold +0.80 of 1% false positives`; empty without thresholds."""
    rates: dict[float, list[tuple[int, float]]] = {}
    for row in reading.vector.get("thresholds") or ():
        rates.setdefault(row["fpr"], []).append((row["tokens"], row["threshold"]))
    bounds = {rate: _at_length(rates[rate], reading.tokens) for rate in sorted(rates)}
    if not bounds:
        return ""
    # The rarest false positives first: their threshold is the highest.
    passed = [rate for rate, bound in bounds.items() if reading.score > bound]
    rate = passed[0] if passed else max(bounds)
    threshold = f"threshold {format_score(bounds[rate])} of {rate * 100:.4g}% false positives"
    return f", {'above' if passed else 'not above'} the {threshold}"


def _at_length(points: Sequence[tuple[int, float]], tokens: int) -> float:
    """The threshold for a length: between two lengths, by the logarithm, as for alarms."""
    import numpy as np

    lengths, values = zip(*sorted(points), strict=True)
    return float(np.interp(math.log(tokens), np.log(lengths), values))


# Words


def _names(vectors: Sequence[Row]) -> str:
    titles = [str(vector["title"]) for vector in vectors]
    if len(titles) > _MOST_NAMES:
        titles[_MOST_NAMES - 1 :] = [f"{len(titles) - _MOST_NAMES + 1:,} others"]
    return _join(titles)


def _join(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b, and c`."""
    if len(items) < 3:
        return " and ".join(items)
    return f"{', '.join(items[:-1])}, and {items[-1]}"


def _short(text: str, width: int) -> str:
    """Text of a file on one printable line of at most `width` cells."""
    return fit(one_line(text[:_READ]), width).rstrip()
