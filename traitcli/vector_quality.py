"""The record of what is known about how good a trait vector is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Self

from pydantic import Field, Strict, TypeAdapter, ValidationError

from traitcli.faults import expected

Number = Annotated[float, Field(strict=True, gt=-1e15, lt=1e15, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, gt=-(10**15), lt=10**15)]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Numbers = tuple[Number | None, ...]

_OLD_KEYS = {
    "rows": "layer_count",
    "rows_given": "layers_provided",
    "magnitude_rows": "magnitude_by_layer",
    "activation_rows": "activation_norm_by_layer",
    "massive_rows": "massive_share_by_layer",
    "auroc_pairs": "auroc_by_pair",
    "auroc_rows": "auroc_by_layer",
    "auroc_error_rows": "auroc_error_by_layer",
    "d_rows": "d_by_layer",
    "words_auroc": "embedding_layer_auroc",
    "words_do_as_well": "embedding_layer_does_as_well",
}
"""Old key -> field: vector files of earlier versions have the old keys."""
_OLD_CHOICES = {
    "the earliest row in": "the earliest layer in",
    "left-out-pair AUROC": "held-out-pair AUROC",
    "told by the file": "set by the file",
    "the middle row that is given": "the middle one of the layers provided",
}
"""Old words of `layer_choice` -> the present ones, for the same files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorQuality:
    """What was measured on a vector, and the verdict; None means not measured.

    The fields are also the keys of the `quality` object in a vector file and in `--json` tables.
    docs/vector-quality.md describes each. `*_by_layer` holds one value per layer, 0 (embeddings) to
    L (after the final norm).

    Shape and choice of layer:
        layer_count      L+1
        layers_provided  layers that a file of another tool holds; the other layers are zero
        layer            the layer that `auroc`, `d`, … refer to
        position         the token position that was measured, for example response_avg
        context          what the build rollouts were read behind: persona or neutral
    """

    layer_count: Count | None = None
    hidden_size: Count | None = None
    layers_provided: tuple[Count, ...] | None = None
    layer: Count | None = None
    layer_choice: Text | None = None
    position: Text | None = None
    context: Text | None = None

    # norms, in activation units
    magnitude: Number | None = None
    relative_magnitude: Number | None = None
    magnitude_by_layer: Numbers | None = None
    activation_norm_by_layer: Numbers | None = None
    massive_share: Number | None = None
    massive_dimensions: Count | None = None
    massive_share_by_layer: Numbers | None = None

    # agreement between parts of the build rollouts
    split_half_cosine: Number | None = None
    difference_cosine: Number | None = None

    # separation of held-out rollouts, with 95 % intervals
    auroc: Number | None = None
    auroc_low: Number | None = None
    auroc_high: Number | None = None
    auroc_by_pair: Numbers | None = None
    auroc_by_layer: Numbers | None = None
    auroc_error_by_layer: Numbers | None = None
    d: Number | None = None
    d_low: Number | None = None
    d_high: Number | None = None
    d_by_layer: Numbers | None = None
    neutral_auroc: Number | None = None
    neutral_auroc_low: Number | None = None
    neutral_auroc_high: Number | None = None
    neutral_auroc_by_layer: Numbers | None = None
    neutral_null_p: Number | None = None
    neutral_length_lead: Number | None = None
    neutral_embedding_lead: Number | None = None
    evaluation_rollouts: Count | None = None
    evaluation_questions: Count | None = None

    # controls
    embedding_layer_auroc: Number | None = None
    embedding_layer_does_as_well: Flag | None = None
    length_auroc: Number | None = None
    length_does_as_well: Flag | None = None
    null_p: Number | None = None
    null_auroc: Number | None = None
    null_auroc_95: Number | None = None

    # rollouts, judge and filter
    positive_total: Count | None = None
    negative_total: Count | None = None
    empty: Count | None = None
    missing: Count | None = None
    positive_score: Number | None = None
    negative_score: Number | None = None
    contrast: Number | None = None
    positive_kept: Count | None = None
    negative_kept: Count | None = None
    filter: Text | None = None
    coherence: Text | None = None
    judge: Text | None = None
    judge_auroc: Number | None = None
    judge_trusted: Flag | None = None

    # verdict
    verdict: Text | None = None
    verdict_reason: Text | None = None
    to_raise: Text | None = None
    doubts: tuple[Text, ...] = ()

    @classmethod
    def parse(cls, stored: Mapping[str, Any]) -> Self:
        """Make a record of what a file stores, under present or old keys and words.

        Views format every field without checking its type, so a value of the wrong type raises
        ValueError here, with a one-line message. Unknown keys are ignored: a later version may
        measure more.
        """
        present = {_OLD_KEYS.get(key, key): value for key, value in stored.items()}

        # views print this sentence as it is, and an index of hidden states was called a row
        choice = present.get("layer_choice")
        if isinstance(choice, str):
            for old, new in _OLD_CHOICES.items():
                choice = choice.replace(old, new)
            present["layer_choice"] = choice
        try:
            return TypeAdapter(cls).validate_python(present)
        except ValidationError as error:
            raise ValueError(_describe(error)) from None


SCALARS = tuple(
    each.name
    for each in fields(VectorQuality)
    if "Numbers" not in str(each.type) and "tuple" not in str(each.type)
)
"""Fields that hold one value, in order: the columns of a table with one row per vector."""


def _describe(error: ValidationError) -> str:
    """The first fault, for example "quality.auroc is '0.9': expected a number"."""
    fault = error.errors(include_url=False)[0]
    path = ".".join(str(part)[:40] for part in fault["loc"])
    return f"quality.{path} is {fault['input']!r:.80}: {expected([fault])}"
