"""The event loop that all traits of a judge share."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio
from traitcli.judging.openai.event_loop import EventLoopThread

event_loop = EventLoopThread()
event_loop.submit(asyncio.sleep, 0).result()
"""


def test_a_process_ends_even_if_its_event_loop_was_not_closed():
    ended = subprocess.run([sys.executable, "-c", PROGRAM], check=False, timeout=60)

    assert ended.returncode == 0
