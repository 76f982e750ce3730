"""Phase times add up; compilations are counted."""

import jax
import jax.numpy as jnp
import pytest

from r1jax.monitor.clock import Clock, CompileCounter


@pytest.fixture
def passing(monkeypatch):
    """(clock, pass some seconds)"""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def after(seconds):
        now[0] += seconds

    return Clock(), after


def test_laps_cover_all_that_came_since_the_last_one(passing):
    clock, after = passing
    after(1)
    with clock("a"):
        after(2)
        with clock("b"):
            after(4)
        after(8)
    after(16)
    assert clock.lap() == {"other": 17, "a": 10, "b": 4}
    with clock("b"):
        after(32)
    assert clock.lap() == {"other": 0, "b": 32}


def test_a_lap_cuts_the_phase_that_it_falls_into(passing):
    clock, after = passing
    with clock("a"):
        after(1)
        assert clock.lap() == {"other": 0, "a": 1}
        after(2)
    assert clock.lap() == {"other": 0, "a": 2}


def test_a_phase_that_fails_is_still_timed():
    clock = Clock()
    try:
        with clock("a"):
            raise KeyError
    except KeyError:
        pass
    assert "a" in clock.lap()


def test_counts_compilations_and_nothing_else():
    counter = CompileCounter()
    function = jax.jit(lambda x: x * 2 + 1)
    x = jnp.arange(3.0)
    counted = counter.count
    function(x)
    assert counter.count == counted + 1
    function(x)
    assert counter.count == counted + 1
    counter.close()
    function(jnp.arange(4.0))
    assert counter.count == counted + 1
