import multiprocessing
import os
import signal
import time

import pytest

from kit.interrupts import Interrupted, Interrupts


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_at_once_without_patience(signum):
    with pytest.raises(Interrupted) as caught, Interrupts():
        os.kill(os.getpid(), signum)
        pytest.fail("not reached")
    assert caught.value.signum == signum


def test_patience_lasts_for_one_signal():
    with pytest.raises(Interrupted) as caught, Interrupts() as interrupts:
        interrupts.patient = True
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.pending == signal.SIGINT
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.signum == signal.SIGTERM


def test_handlers_are_put_back():
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


def test_signals_are_heard_again_after_somebody_else_took_them():
    with pytest.raises(Interrupted), Interrupts() as interrupts:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGTERM)
        interrupts.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("not reached")


def test_a_forked_loader_ignores_ctrl_c_and_dies_of_sigterm():
    with Interrupts():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        os.kill(child.pid, signal.SIGINT)
        child.join(0.3)
        assert child.is_alive()
        child.terminate()
        child.join(10)
    assert child.exitcode == 143
