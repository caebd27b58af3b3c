import gc
import threading
import weakref

import pytest

from diamond_fast.envs.timed_worker import TimedWorker


def call(worker, function, *args):
    worker.submit(function, *args)
    return worker.result()


def fail():
    raise KeyError("lost")


def test_results_and_exceptions_come_back():
    worker = TimedWorker(5)
    assert call(worker, divmod, 7, 3) == (2, 1)
    with pytest.raises(KeyError, match="lost"):
        call(worker, fail)
    assert call(worker, threading.get_ident) == call(worker, threading.get_ident) != threading.get_ident()
    worker.close()


def test_a_stuck_call_is_given_up():
    worker, released = TimedWorker(0.1), threading.Event()
    with pytest.raises(TimeoutError, match=r"did not answer within 0\.1 s"):
        call(worker, released.wait)
    with pytest.raises(RuntimeError, match="stopped answering"):
        call(worker, int)
    released.set()
    worker.close()


def test_calls_and_results_alternate():
    worker = TimedWorker(5)
    with pytest.raises(RuntimeError, match="nothing to do"):
        worker.result()
    worker.submit(int)
    with pytest.raises(RuntimeError, match="still at work"):
        worker.submit(int)
    assert worker.result() == 0
    worker.close()
    with pytest.raises(RuntimeError, match="is closed"):
        call(worker, int)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_the_time_limit_is_checked(timeout):
    with pytest.raises(ValueError, match=r"^timeout: "):
        TimedWorker(timeout)


@pytest.mark.parametrize("closed", [True, False])
def test_an_idle_thread_keeps_nothing_alive_and_ends(closed):
    class Thing:
        def method(self):
            return 1

    before = set(threading.enumerate())
    worker, thing = TimedWorker(5), Thing()
    (thread,) = set(threading.enumerate()) - before
    assert call(worker, thing.method) == 1
    reference = weakref.ref(thing)
    del thing
    gc.collect()
    assert reference() is None
    if closed:
        worker.close()
    del worker
    thread.join(60)
    assert not thread.is_alive()
