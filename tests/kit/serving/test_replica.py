"""Engines that die: their streams are told so, others go on, and they are started again."""

import os
import signal
import time

import pytest
from served import served
from streams import noise
from test_host import pcm
from test_websocket import settled

from kit.errors import KitError
from kit.serving.client import ServerError, Stream


@pytest.mark.timeout(300)
def test_an_engine_that_is_killed_takes_only_its_own_streams_along(export):
    with served(export, "serving.replicas=2", "serving.stuck_seconds=200", processes=True) as server:
        streams = [Stream(server.address, timeout=100) for _ in range(4)]
        for stream in streams:
            stream.send(pcm(noise(1.0)))
        victim, other = server.pool.replicas
        assert len(victim.streams) == len(other.streams) == 2
        before = victim.process.pid
        os.kill(before, signal.SIGKILL)
        how = []
        for stream in streams:
            try:
                stream.send(pcm(noise(0.5)))
                how.append([event["event"] for event in stream.finish()][-1])
            except ServerError as error:
                how.append(error.code)
        assert sorted(how) == ["ended", "ended", "engine_lost", "engine_lost"]
        settled(server)
        while not victim.ready:  # the test's own time limit ends it
            with Stream(server.address, timeout=100) as stream:  # the other one goes on meanwhile
                stream.send(pcm(noise(0.5)))
                assert list(stream.finish())[-1]["event"] == "ended"
            time.sleep(1.0)  # it needs the processor more
        assert victim.process.pid != before


def test_an_engine_that_cannot_start_says_why(tmp_path):
    with pytest.raises(KitError, match="nowhere"), served(tmp_path / "nowhere"):
        pass
