"""Phase times add up; compilations are counted."""

import jax
import jax.numpy as jnp

from r1jax.monitor.clock import Clock, CompileCounter


def test_laps_cover_what_came_since_the_last_one():
    clock = Clock()
    with clock("a"), clock("b"):
        pass
    with clock("a"):
        pass
    lap = clock.lap()
    assert set(lap) == {"a", "b"}
    assert clock.lap() == {}
    with clock("b"):
        pass
    assert set(clock.lap()) == {"b"}
    assert clock.total["a"] == lap["a"]


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
