"""Two replicas in Ray Serve: a stream stays with its own, and when one is killed only its clients get an error."""

import os
import socket as sockets
import sys
import time

import psutil
import pytest
from served import PLAIN
from small import small_config
from streams import noise
from test_host import pcm

from kit.cli import main
from kit.cluster import library
from kit.errors import KitError, UsageError
from kit.serving import cluster
from kit.serving.client import ServerError, Stream
from kit.serving.settings import Settings

pytest.importorskip("ray", reason="the extra ray-serve is not installed")
pytest.importorskip("grpc_reflection", reason="the extra ray-serve is not installed")
pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore::DeprecationWarning")]
SECONDS = 3


def free_port():
    with sockets.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def address(export):
    config = small_config(*PLAIN, f"serving.port={free_port()}", "serving.replicas=2", "serving.streams=2", "threads=1")
    with cluster.deployed(config, str(export)) as address:
        yield address


def opened(address, count):
    """So many streams; Ray may offer a full replica, which says so, and another try may meet the other one."""
    found, deadline = [], time.monotonic() + 120
    while len(found) < count and time.monotonic() < deadline:
        try:
            found.append(Stream(address, timeout=120))
        except ServerError as error:
            assert error.code == "full"
    return found


def replicas():
    """The processes of Ray that have a front."""
    own = psutil.Process().children(recursive=True)
    return [one for one in own if "ServeReplica:kit:front" in " ".join(one.cmdline())]


def ended(stream, half):
    """The events of the second half of a stream, or the error that it ended with."""
    try:
        stream.send(half)
        return list(stream.finish())
    except ServerError as error:
        with pytest.raises(KitError):  # and nothing comes after it
            list(stream.finish())
        return error


def test_streams_stay_and_a_killed_replica_ends_its_own_with_one_error(address):
    audio = pcm(noise(SECONDS, 3))
    middle = len(audio) // 4 * 2
    with Stream(address, timeout=120) as alone:
        alone.send(audio)
        (text,) = [event["text"] for event in alone.finish() if event["event"] == "final"]
    streams = opened(address, 4)  # a replica holds two
    assert len(streams) == 4
    for stream in streams:
        stream.send(audio[:middle])
    assert all(any(event["event"] == "began" for event in stream.events(wait=60)) for stream in streams)
    first, second = replicas()
    os.kill(first.pid, 9)
    psutil.wait_procs([first], timeout=30)
    found = [ended(stream, audio[middle:]) for stream in streams]
    lost = [one for one in found if isinstance(one, ServerError)]
    whole = [one for one in found if not isinstance(one, ServerError)]
    assert len(lost) == len(whole) == 2
    assert {error.code for error in lost} == {"engine_lost"}
    for events in whole:
        assert [event["text"] for event in events if event["event"] == "final"] == [text]
        assert events[-1]["event"] == "ended"
    assert second.is_running()


def test_the_deployment_grows_with_its_streams(export):
    config = small_config(*PLAIN, "serving.port=8000", "serving.replicas=2", "serving.most_replicas=5")
    deployment = cluster.deployment_of(
        library("serve", "ray-serve"), config, str(export), Settings.of(config.serving), 5, False
    )
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 5)
    assert scaling.target_ongoing_requests == pytest.approx(0.75 * config.serving.streams)
    assert deployment.max_ongoing_requests > config.serving.streams, "a full replica says so itself"


def test_what_cannot_work_is_told(export, monkeypatch, capsys):
    arguments = ["serve", "engine=ray", f"checkpoint={export}"]
    assert main([*arguments, "port=0"]) == 2
    assert "engine=ray needs a port of its own" in capsys.readouterr().err
    with sockets.create_server(("127.0.0.1", 0)) as taken:
        assert main([*arguments, f"port={taken.getsockname()[1]}"]) == 2
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(UsageError, match=r"install nim4-kit\[ray-serve\]"):
        library("serve", "ray-serve")
