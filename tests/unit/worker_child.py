"""A message that makes a worker start a process, as vLLM does; and a command with such a worker."""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path

from traitcli.config import Config
from traitcli.pipeline.messages import ReleaseRequest, WorkerReady
from traitcli.scheduling.local import LocalPool


class StartsChild:
    """The worker starts a process when it reads this, and notes its id, or why it cannot."""

    def __init__(self, note: Path) -> None:
        self._note = note

    def __reduce__(self):
        return start_child, (self._note,)


def start_child(note: Path) -> ReleaseRequest:
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(10**6,))
    try:
        child.start()
        found = str(child.pid)
    except AssertionError as error:  # a daemon may have no children
        found = str(error)
    note.with_suffix(".new").write_text(found)
    note.with_suffix(".new").rename(note)
    return ReleaseRequest(0)


def open_pool(folder: Path, engine: str = "vllm") -> LocalPool:
    """A pool of one worker; it is ready and was told to start a process."""
    config = Config.model_validate({"model": {"id": "org/tiny"}, "extract": {"engine": engine}})
    pool = LocalPool(config, ["cpu"], False, folder / "logs", lambda message: message)
    pool.start(0)
    messages = []
    while WorkerReady() not in messages:
        pool.poll(lambda worker, message: messages.append(message), 1)
    pool.send(0, StartsChild(folder / "child"))
    return pool


if __name__ == "__main__":
    pool = open_pool(Path(sys.argv[1]))
    while True:
        pool.poll(lambda worker, message: print(message, flush=True), 1)
