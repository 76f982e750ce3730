"""What a process says when jax ends it because another one is gone."""

import pathlib
import subprocess
import sys

import pytest

from r1jax import cluster, last_words
from r1jax.errors import UserError

# As XLA writes it, jaxlib 0.10.2 (stack traces shortened).
SILENT = b"""\
E1121 04:49:51.900500   23757 coordination_service.cc:1549] [1760] Use error polling to propagate \
the following error to all tasks: UNAVAILABLE: The following tasks are unhealthy (stopped sending \
heartbeats):
1
The tasks have crashed. Check the task logs for an earlier error.
E1121 04:49:51.900981   23775 coordination_service_agent.cc:289] Polled an error from \
coordination service (this can be an error from this or another task).
F1121 04:49:51.901120   23775 client.h:80] Terminating process because the JAX distributed service \
detected fatal errors. This most likely indicates that another task died. absl::Status: \
UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):
1
The tasks have crashed.
*** Check failure stack trace: ***
    @     0x7fec42c40634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""
LEADER = b"""\
E1121 04:49:55.153965   23840 coordination_service_agent.cc:289] Polled an error from \
coordination service (this can be an error from this or another task).
F1121 04:49:55.154030   23840 client.h:80] Terminating process because the JAX distributed service \
detected fatal errors. absl::Status: UNAVAILABLE: Failed to send RPC to coordination service. \
Either the leader task was preempted/died/restarted unexpectedly
:UNKNOWN:Error received from peer  {grpc_message:"Socket closed", grpc_status:14}
*** Check failure stack trace: ***
"""


def pass_on(words: bytes) -> list[str]:
    command = [
        sys.executable,
        "-S",
        "-E",
        "-P",
        str(pathlib.Path(last_words.__file__)),
        "process 7",
    ]
    done = subprocess.run(command, input=words, capture_output=True, check=True)
    return done.stderr.decode().splitlines()


# What a thread says that was talking to the one that went.
THREAD = b"Exception in thread saver:\nTraceback (most recent call last):\n  ...\n"


@pytest.mark.parametrize(("words", "gone"), [(SILENT, 1), (LEADER, 0), (THREAD + LEADER, 0)])
def test_the_page_of_xla_is_one_line_that_names_the_peer(words, gone):
    (line,) = pass_on(words)
    assert line.startswith(f"r1jax: process {gone} is gone")
    assert "process 7 ends too" in line


def test_everything_else_is_passed_on():
    words = b"a warning\n" + SILENT.splitlines(keepends=True)[-1] + b"no newline at the end"
    assert pass_on(words) == words.decode().splitlines()
    # XLA may say things of the service that end nothing.
    assert pass_on(LEADER.splitlines(keepends=True)[0]) == LEADER.decode().splitlines()[:1]


def test_alone_a_process_asks_nobody():
    value = {"a": (1, 2)}
    assert cluster.gather(value, "here")[0] is value
    assert cluster.from_first(lambda: 3, "here") == 3
    assert (cluster.count(), cluster.index(), cluster.owns(5)) == (1, 0, True)
    with pytest.raises(UserError, match=r"^no room$"):
        cluster.require_none("no room", "here")


def test_half_an_address_is_refused(monkeypatch):
    with pytest.raises(UserError, match="give all three"):
        cluster.join("127.0.0.1:1", 2, None)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(UserError, match="must be numbers"):
        cluster.join("127.0.0.1:1", None, 0)


def test_a_collective_that_fails_is_said_before_jax_is_waited_for(monkeypatch, capsys):
    slept = []
    monkeypatch.setattr(cluster, "join", lambda *_, **__: None)
    monkeypatch.setattr(cluster, "count", lambda: 2)
    monkeypatch.setattr(cluster.time, "sleep", lambda s: slept.append((s, capsys.readouterr().out)))
    monkeypatch.setattr(cluster, "end_at_once", pytest.exit)
    error = RuntimeError("Gloo AllReduce failed: Connection closed by peer\nmore of it")
    joined = cluster.joined("127.0.0.1:1", 2, 0, detect=False, heartbeat_s=20)
    with pytest.raises(pytest.exit.Exception) as ended, joined:
        raise error
    assert ended.value.returncode == 1
    assert "Gloo AllReduce failed" in str(ended.value)
    ((seconds, said),) = slept
    assert seconds > 20  # jax looks that often
    wanted = "Connection closed by peer; waiting 30 s to hear who is gone\n"
    assert said == f"r1jax train: Gloo AllReduce failed: {wanted}"
