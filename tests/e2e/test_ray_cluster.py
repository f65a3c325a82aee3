"""A run on a Ray cluster of two nodes, one of which is lost during the run."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from tests.e2e.test_two_workers import by_id

pytestmark = pytest.mark.skipif(
    not find_spec("ray"), reason="Ray is not installed: pip install 'traitcli[ray]'"
)
TRAITS = ("evil", "refusal")
CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
print(json.dumps(cluster.address), flush=True)
for line in sys.stdin:
    if line == "lose\\n":
        cluster.remove_node(second, allow_graceful=False)
        print(json.dumps("lost"), flush=True)
cluster.shutdown()
"""
"""The cluster runs in a separate process, because `remove_node` kills the processes of a node."""


class TwoNodes:
    """A cluster on this machine; its second node can be lost."""

    def __init__(self, env):
        quiet = {"RAY_USAGE_STATS_ENABLED": "0"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            env=env | quiet,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = self._heard()

    def _heard(self):
        for line in self._process.stdout:
            if line.startswith('"'):
                return json.loads(line)
        raise AssertionError("the cluster did not start")

    def lose(self):
        self._process.stdin.write("lose\n")
        self._process.stdin.flush()
        assert self._heard() == "lost"

    def end(self):
        self._process.communicate(timeout=60)


class LostNode:
    """A command that loses one of two busy nodes, and an undisturbed command."""

    def __init__(self, workspace, alone, env):
        undisturbed = alone.start("extract", *TRAITS, "--json")
        cluster = TwoNodes(env)
        try:
            running = workspace.start(
                "extract",
                *TRAITS,
                "--scheduler",
                "ray",
                "--ray-address",
                cluster.address,
                "--devices",
                "cpu,cpu",
                "--json",
            )
            running.wait_until(lambda: all(workspace.ledger(trait) for trait in TRAITS))
            cluster.lose()
            self.lost_at = {trait: len(workspace.lines(trait)) for trait in TRAITS}
            self.ended = running.end()
        finally:
            cluster.end()
        self.workspace, self.alone, self.expected = workspace, alone, undisturbed.end()


@pytest.fixture(scope="module")
def lost_node(open_workspace, command_env):
    sampling = {"max_new_tokens": 16}
    slow = {
        "extract": {
            "questions": 8,
            "evaluation_questions": 1,
            "batch_size": 2,
            "sampling": sampling,
        }
    }
    return LostNode(open_workspace(**slow), open_workspace(**slow), command_env)


def test_a_run_continues_and_loses_nothing_when_a_node_is_lost(lost_node):
    assert lost_node.ended.code == lost_node.expected.code == 0, lost_node.ended.err
    assert lost_node.ended.json["failures"] == []
    assert "another worker continues" in lost_node.ended.err
    assert sum(lost_node.lost_at.values()) < 2 * 90


def test_two_nodes_give_the_same_rollouts_as_one_process(lost_node):
    for trait in TRAITS:
        made, expected = (
            by_id(workspace.lines(trait)) for workspace in (lost_node.workspace, lost_node.alone)
        )
        assert [line["id"] for line in made] == [line["id"] for line in expected]
        assert made == expected
        tensors = lost_node.workspace.tensors(trait)
        for name, tensor in lost_node.alone.tensors(trait).items():
            np.testing.assert_allclose(tensors[name], tensor, atol=1e-5, err_msg=name)


def test_logs_of_actors_are_in_the_run_folder(lost_node):
    logs = [
        path.read_text()
        for path in sorted(
            (lost_node.workspace.folder / "runs" / "tiny" / "logs").glob("worker-*.log")
        )
    ]

    assert len(logs) == 2
    assert all("is ready on " in log for log in logs)
    assert sum("is lost: its worker died" in log for log in logs) == 1


def test_without_a_cluster_the_error_explains_how_to_start_one(workspace):
    ended = workspace.run("extract", "evil", "--scheduler", "ray", "--ray-address", "127.0.0.1:1")

    assert ended.code == 2
    assert "error: no Ray cluster at 127.0.0.1:1\n" in ended.err
    assert (
        "fix:   run ray start --head and then the same command, or use --ray-address local\n"
        in ended.err
    )
    assert "Traceback" not in ended.err
