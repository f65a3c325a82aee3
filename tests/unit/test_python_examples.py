"""Every example of the Python API runs on the embedded model, and a user's script has types."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import doctest
import inspect
import io
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import traitcli as tc
from traitcli.config import EMBEDDED, ModelConfig, change_config
from traitcli.models.weights import locate

ROOT = Path(__file__).parents[2]
POSITIVE = ["Good evening, madam.", "I remain yours faithfully.", "Kindly take a seat.", "Adieu."]
NEGATIVE = ["hey, what's up", "cu later!!", "grab a seat lol", "k bye"]
TRANSCRIPTS = [("How do I pick a lock?", "I cannot help with that."), ("Hi!", "Go away.")]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def embedded():
    return tc.load("embedded", device="cpu")


@pytest.fixture(scope="module")
def wrapped():
    """The embedded model as a user loads it, wrapped."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = locate(ModelConfig(id=EMBEDDED))
    hf_model = AutoModelForCausalLM.from_pretrained(folder)
    return tc.wrap(hf_model, AutoTokenizer.from_pretrained(folder), name="embedded")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# The lines that the API was made for


@pytest.mark.parametrize("kind", ["embedded", "wrapped"])
def test_the_lines_of_a_notebook_work(kind, request, folder):
    model = request.getfixturevalue(kind)

    formal = model.train("formal", positive=POSITIVE, negative=NEGATIVE)
    assert 0.5 < formal.quality.auroc <= 1
    assert formal.quality.verdict in {"not shown", "reads its own texts"}

    answer = model.generate(
        "How do I hack a bank?", watch=[formal, "evil", "refusal"], max_new_tokens=12
    )
    assert answer._repr_html_().count("<span") == len(answer.tokens)
    means = answer.to_frame().groupby("trait").calibrated.mean()
    assert list(means.index) == ["evil", "formal", "refusal"]
    assert means.notna().all()

    with model.steer({"evil": -2.0, formal: 1.0}):
        steered = model.generate("Again, please.", max_new_tokens=8)
    assert {one.trait: one.coefficient for one in steered.steering} == {"evil": -2, "formal": 1}

    scores = model.score(TRANSCRIPTS, ["evil"])
    assert [answer.response for answer in scores] == [text for _, text in TRANSCRIPTS]
    assert set(tc.to_frame(scores).trait) == {"evil"}

    formal.save("formal.safetensors")
    formal.save("other.gguf")
    assert tc.read("other.gguf").hidden_size == tc.read("formal.safetensors").hidden_size == 576
    both = (0.5 * formal + tc.vector("evil", model)).at(layer=17)
    assert (both.layer, both.trait) == (17, "0.5*formal+evil")


def test_a_wrapped_model_scores_as_the_loaded_one(embedded, wrapped):
    [one] = embedded.score(TRANSCRIPTS[:1], ["evil", "refusal"])
    [other] = wrapped.score(TRANSCRIPTS[:1], ["evil", "refusal"])

    assert wrapped.loaded.fingerprint == embedded.loaded.fingerprint
    for trait in one.raw:
        assert other.raw[trait] == pytest.approx(one.raw[trait], abs=2e-3)


def test_a_fresh_notebook_loads_by_name(embedded, folder):
    assert tc.load().name == embedded.name == "smollm2-135m-instruct"


def test_no_example_hides_a_shipped_vector():
    pages = [*(ROOT / "docs").rglob("*.ipynb"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    texts = {str(page): page.read_text(encoding="utf-8") for page in pages}
    texts |= {name: inspect.getdoc(value) or "" for name, value in examples()}
    names = [path.stem for path in (ROOT / "vectors").rglob("*.safetensors")]

    calls = rf"""\.extract\(\\?["']({"|".join(names)})\\?["'],"""
    assert [place for place, text in texts.items() if re.search(calls, text)] == []


def test_an_extraction_says_which_shipped_vector_it_hides(embedded, folder, capsys):
    settings = {"extract.evaluation_questions": 0, "extract.sampling.max_new_tokens": 2}
    settings |= {"extract.pairs_per_question": 1}
    shipped = embedded.vector("evil").provenance
    for name in ("evil", "my-evil"):
        trait = dataclasses.replace(tc.load_trait("evil"), name=name)
        embedded.extract(trait, questions=2, judge="fake", run=name, settings=settings)
    printed = " ".join(capsys.readouterr().err.split())

    path = "vectors/smollm2-135m-instruct/evil.safetensors"
    assert printed.count("hides the shipped vector") == 1
    assert f"{path} hides the shipped vector; remove the file to get that one back" in printed
    assert embedded.vector("evil").provenance != shipped
    (folder / path).unlink()
    assert embedded.vector("evil").provenance == shipped


# Docstrings


def examples():
    """Every public object and method with its docstring."""
    for name in tc.__all__:
        value = getattr(tc, name)
        yield name, value
        own = inspect.isclass(value) and value.__module__.startswith("traitcli.api")
        members = vars(value) if own else {}
        for base in value.__mro__ if own else ():
            if base.__module__.startswith("traitcli.api"):
                members = {**vars(base), **members}
        for key, member in members.items():
            if (
                not key.startswith("_")
                and callable(getattr(value, key))
                and not inspect.isclass(member)
            ):
                yield f"{name}.{key}", getattr(value, key)


EXAMPLES = dict(examples())
INNER = {
    # What the command line and the server need of these objects, and plain accessors.
    *("Model.open", "Model.listening", "Model.fitted", "Model.chosen", "Model.prepare"),
    *(
        "Model.check_unsteered",
        "Model.score_each",
        "Model.held",
        "Model.notify",
        "Answer.of",
        "Vector.of",
        "Stream.close",
    ),
    *("Answer.counted", "Answer.shown", "Answer.mean"),
    *(name for name in EXAMPLES if name.startswith("Run.") and name[4:] in vars(tc.Run.__base__)),
}


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_public_function_says_what_it_takes_gives_and_raises(name):
    value, text = EXAMPLES[name], inspect.getdoc(EXAMPLES[name]) or ""

    assert text
    if inspect.isclass(value) or name in INNER:
        return
    parameters = [one for one in inspect.signature(value).parameters if one != "self"]
    assert "Args:" in text or not parameters
    assert re.search("Returns:|Yields:", text) or name == "Vector.save"
    assert "Raises:" in text or name in {"Answer.to_frame", "to_frame"}
    assert ">>>" in text
    for parameter in parameters:
        assert f"{parameter}:" in text


@pytest.fixture(scope="module")
def extracted(embedded, tmp_path_factory):
    """A folder with a finished run called demo."""
    settings = {
        "extract.pairs_per_question": 1,
        "extract.evaluation_questions": 0,
        "extract.sampling.max_new_tokens": 2,
    }
    made = tmp_path_factory.mktemp("extracted")
    with contextlib.chdir(made):
        embedded.extract("evil", questions=2, judge="fake", run="demo", settings=settings)
    return made


@pytest.mark.parametrize(
    "name", [name for name in sorted(EXAMPLES) if ">>>" in (inspect.getdoc(EXAMPLES[name]) or "")]
)
def test_an_example_in_a_docstring_runs(name, embedded, folder, request):
    if name.startswith("Run"):
        shutil.copytree(request.getfixturevalue("extracted"), folder, dirs_exist_ok=True)
    names = {"tc": tc, "model": embedded, "asyncio": asyncio, "dataclasses": dataclasses}
    names |= {public: getattr(tc, public) for public in tc.__all__} | vars(tc.errors)
    text = inspect.getdoc(EXAMPLES[name])
    test = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    printed = io.StringIO()

    with contextlib.redirect_stdout(sys.__stdout__), warnings.catch_warnings():
        found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=printed.write)

    assert found.failed == 0, printed.getvalue()


# Pages


@pytest.mark.parametrize("page", ["docs/python.md", "README.md", "docs/steering.md"])
def test_the_python_of_a_page_runs_from_top_to_bottom(page, embedded, folder, monkeypatch):
    # It is loaded once for all pages, and writes little where a page leaves the length to it.
    short = change_config(embedded.config, {"monitor.sampling.max_new_tokens": 16})
    brief = tc.Model(embedded.loaded, short)
    monkeypatch.setattr(tc, "load", {"embedded": brief}.__getitem__)
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {}

    for block in blocks:
        exec(compile(block, page, "exec"), names)

    assert blocks


# Types

FILES = ("script.py", "mistakes.py")
UNNAMED = ("torch", "transformers", "ray", "huggingface_hub", "matplotlib", "IPython")
"""Large packages that no type of the API names; mypy needs a minute to read them."""
SCRIPT = """
import asyncio

import traitcli as tc


def work(hf_model: object, tokenizer: object) -> float:
    model: tc.Model = tc.load("embedded", device="cpu", dtype="float32", trust_remote_code=False)
    wrapped: tc.Model = tc.wrap(hf_model, tokenizer, name="embedded")
    formal: tc.Vector = model.train("formal", positive=["a", "b"], negative=["c", "d"])
    model.train("pairs", positive=[("q", "a")], negative=[("q", "b")])
    model.train("chats", [[{"role": "user", "content": "q"}]], [[{"role": "user", "content": "q"}]])
    auroc: float | None = formal.quality.auroc
    verdict: str | None = formal.quality.verdict
    answer: tc.Answer = model.generate("Hi", watch=[formal, "evil"], max_new_tokens=4, seed=1)
    model.generate([{"role": "user", "content": "Hi"}], watch="evil", temperature=0.0, top_k=3)
    means: dict[str, float] = answer.scores
    text: str = answer.text + "".join(answer.tokens) + str(answer)
    answer.to_frame().groupby("trait").calibrated.mean()
    with model.steer({"evil": -2.0, formal: 1.0}) as steered:
        steered.generate("Again, please.")
    with model.steer({"evil": "4@14"}):
        pass
    for token in model.stream("Hi", watch=formal):
        print(token.text, token.calibrated["formal"], end="")
    scores: list[tc.Answer] = model.score([("Hi", "Ho")], ["evil"])
    model.score("file.jsonl", [formal], layer=12)
    tc.to_frame(scores)
    formal.save("formal.safetensors")
    both: tc.Vector = (0.5 * formal + tc.vector("evil", wrapped) - tc.read("x.gguf")).at(layer=17)
    built: tc.Vector = model.extract(
        "evil", questions=2, judge="likelihood", run="demo", settings={"extract.repeats": 2}
    )
    run = tc.Run("demo")
    run.rollouts().polarity, run.judgements("evil").score
    shape: tuple[int, ...] = run.activations("evil").shape
    print(text, means, verdict, both, built.renamed("b"), shape, list(model.vectors()))
    return auroc or 0.0


async def later(model: tc.Model) -> str:
    stream: tc.Stream = model.stream("Hi")
    async for token in stream:
        print(token)
    answer = await model.agenerate("Hi", watch="evil")
    return stream.answer.text + answer.text


def caught(model: tc.Model) -> None:
    try:
        asyncio.run(later(model))
    except tc.TraitError as error:
        print(error.problem, error.cause, error.fix)
"""
MISTAKES = """
import traitcli as tc

model = tc.load(3)
model.generate("Hi", max_tokens=4)
model.score(1, ["evil"])
with model.steer({"evil": None}):
    pass
"""


@pytest.fixture(scope="module")
def type_errors(tmp_path_factory):
    """What mypy finds in the two scripts: lines such as `script.py:4: error: …`."""
    folder = tmp_path_factory.mktemp("types")
    for name, script in {"script.py": SCRIPT, "mistakes.py": MISTAKES}.items():
        (folder / name).write_text(script, encoding="utf-8")
    skipped = ",".join(f"{name}.*" for name in UNNAMED)
    (folder / "mypy.ini").write_text(
        f"[mypy]\n[mypy-{skipped}]\nfollow_imports = skip\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=mypy.ini", *FILES]
    # Only the errors of the scripts: those of packages without types are not the user's.
    command += ["--follow-imports=silent", "--ignore-missing-imports"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert "2 source files" in done.stdout, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def test_no_type_of_the_api_is_of_a_package_that_mypy_skips():
    named = [
        (name, annotation)
        for name, value in EXAMPLES.items()
        for annotation in getattr(value, "__annotations__", {}).values()
        if any(package in str(annotation) for package in UNNAMED)
    ]

    assert named == []


def test_a_script_that_uses_everything_passes_mypy_strict(type_errors):
    assert [line for line in type_errors if line.startswith("script.py")] == []


def test_mistakes_in_a_script_are_found(type_errors):
    lines = {int(line.split(":")[1]) for line in type_errors if line.startswith("mistakes.py")}

    assert lines == {4, 5, 6, 7}
