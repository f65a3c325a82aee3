"""A tiny model as users of the Python API have it, with a vector of its own."""

from __future__ import annotations

import pytest

from tests.unit.formal_texts import NEGATIVE, POSITIVE
from traitcli.api.model import Model
from traitcli.config import Config, ModelConfig


@pytest.fixture
def model(loaded, model_folders, tmp_path, monkeypatch):
    """The tiny Llama as `load` makes it, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    config = Config(name="tiny", model=ModelConfig(id=str(model_folders["llama"]), device="cpu"))
    return Model(loaded("llama"), config)


@pytest.fixture
def formal(model):
    return model.train("formal", POSITIVE, NEGATIVE)
