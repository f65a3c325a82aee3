"""Results on labelled answers of another source, and the file that keeps them beside a vector."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from traitcli.errors import VectorError
from traitcli.faults import expected
from traitcli.files import explain_unreadable, parse_json, write_atomic
from traitcli.records import Position, TraitVector
from traitcli.vectors.fingerprint import fingerprint

MIN_ANSWERS = 20
"""Answers of each label that a test needs. With fewer, an interval over prompts is too narrow."""
MIN_PROMPTS = 20
_FORMAT = 1
Share = Annotated[float, Field(strict=True, ge=-1, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0, lt=10**15)]
Row = dict[str, str | float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledTest:
    """How well a vector separates labelled answers that its run did not make.

    name         given with --keep
    source       name of the file
    texts, positive, prompts   how many there are, how many show the trait, and of how many prompts
    position, layer, fingerprint   the direction that was measured; see `fingerprint`
    summary      how an answer was summed up, for example rolling(8)
    auroc, low, high   with a 95 % interval over prompts; a single prompt has none
    length_auroc, words_auroc, embedding_auroc, asked_auroc   of the baselines; None: not measured
    length_lead_low, words_lead_low   lower ends of the intervals of the lead over them
    rows         the whole table, for the report
    """

    name: str
    source: str
    texts: Count
    positive: Count
    prompts: Count
    position: str
    layer: Count
    fingerprint: str
    summary: str
    auroc: Share
    low: Share | None
    high: Share | None
    length_auroc: Share
    length_lead_low: Share | None
    words_auroc: Share | None = None
    words_lead_low: Share | None = None
    embedding_auroc: Share | None = None
    asked_auroc: Share | None = None
    rows: tuple[Row, ...] = ()

    @property
    def is_large_enough(self) -> bool:
        """Whether there are enough answers and prompts to say anything."""
        fewest = min(self.positive, self.texts - self.positive)
        return fewest >= MIN_ANSWERS and self.prompts >= MIN_PROMPTS

    def fits(self, vector: TraitVector) -> bool:
        """Whether it was measured on this vector, as it is now."""
        try:
            # A vector without the position, whatever it is called, has no fingerprint for it.
            own = fingerprint(vector, cast("Position", self.position), self.layer)
            return own == self.fingerprint
        except VectorError:
            return False


def path_of_tests(vector_path: Path) -> Path:
    """The file of the tests of a vector, beside it."""
    return vector_path.with_name(f"{vector_path.stem}.labels.json")


def read_tests(*vector_paths: Path) -> tuple[LabelledTest, ...]:
    """The tests kept beside each path, those of earlier vectors too; empty without a file.

    A shipped vector has the results that came with it, and yours where your own vector would be.
    Of two with one name the last counts. Raises VectorError for a file that is damaged.
    """
    tests = [test for path in vector_paths for test in _read_file(path_of_tests(path))]
    return tuple({test.name: test for test in tests}.values())


def tests_of(
    vector: TraitVector, *vector_paths: Path
) -> tuple[list[LabelledTest], list[LabelledTest]]:
    """The kept tests of a vector as it is now, and those of earlier ones; see `read_tests`."""
    tests = read_tests(*vector_paths)
    fitting = [test.fits(vector) for test in tests]
    own = [test for test, fits in zip(tests, fitting, strict=True) if fits]
    return own, [test for test, fits in zip(tests, fitting, strict=True) if not fits]


def _read_file(path: Path) -> tuple[LabelledTest, ...]:
    try:
        data = parse_json(path.read_bytes())
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}")
        return TypeAdapter(tuple[LabelledTest, ...]).validate_python(data.get("tests"))
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        cause = expected(error.errors(include_url=False))
    except (OSError, ValueError) as error:
        cause = explain_unreadable(error)
    raise VectorError(
        f"cannot read {path}",
        cause=cause,
        fix="delete it and measure again: traitcli inspect labels FILE --keep NAME",
    )


def keep_test(vector_path: Path, test: LabelledTest) -> Path:
    """Add a test, in place of one with its name; raises VectorError and StorageError."""
    others = [one for one in read_tests(vector_path) if one.name != test.name]
    tests: Sequence[dict[str, Any]] = [asdict(one) for one in (*others, test)]
    text = json.dumps({"format": _FORMAT, "tests": tests}, ensure_ascii=False, indent=1)
    path = path_of_tests(vector_path)
    write_atomic(path, f"{text}\n")
    return path
