"""The pool keeps deadlines, survives dead workers, serves threads, asyncio and plain scripts."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc

import pytest

from r1jax.rewards import math
from r1jax.rewards.math.batch import close_pools, shared_pool
from r1jax.rewards.pool import Pool, PoolError

HELPERS = """
import os, resource, signal, socket, time

def double(x):
    return 2 * x

def length(text):
    return len(text)

def pid(_):
    return os.getpid()

def act(item):
    what = item["do"]
    if what == "sleep":
        time.sleep(item["s"])
    elif what == "spin":
        while True:
            pass
    elif what == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "exit":
        os._exit(0)
    elif what == "raise":
        raise ValueError("no")
    elif what == "allocate":
        return len(bytearray(item["mb"] << 20))
    elif what == "child":
        child = os.fork()
        if child:
            open(item["file"], "w").write(str(child))
        time.sleep(60)
    elif what == "flood":
        return "x" * (5 << 20)
    elif what == "blocked":
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        9 ** (9 ** 9)
    return what
"""


@pytest.fixture(scope="module", autouse=True)
def helpers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    (folder / "pool_helpers.py").write_text(HELPERS)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    close_pools()


@pytest.fixture(scope="module")
def pool(helpers):
    with Pool("pool_helpers:act", workers=2, memory_mb=512) as made:
        yield made


def running(pid):
    """Whether the process exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_results_come_in_the_order_of_the_items():
    with Pool("pool_helpers:double", workers=2) as pool:
        outcomes = pool.map(list(range(50)))
        assert [o.value for o in outcomes] == [2 * x for x in range(50)]
        assert {o.status for o in outcomes} == {"ok"}


def test_equal_items_run_once_and_later_ones_come_from_the_cache():
    with Pool("pool_helpers:pid", workers=2) as pool:
        first = pool.map([7, 7, 7])
        second = pool.map([7])
        assert len({o.value for o in first + second}) == 1
        assert second[0].cached
        stats = pool.stats()
        assert stats["ok"] == 1
        assert stats["deduplicated"] == 2
        assert stats["cache_hits"] == 1


def test_the_cache_forgets_the_least_recently_used():
    with Pool("pool_helpers:double", workers=1, cache_size=2) as pool:
        pool.map([1, 2, 3])
        assert not pool.map([1])[0].cached
        assert pool.map([1])[0].cached


def test_the_cache_keeps_no_text_of_what_it_knows():
    items = [f"{number} " * 5000 for number in range(50)]
    with Pool("pool_helpers:length", workers=1) as pool:
        pool.map(items[:1])
        tracemalloc.start()
        pool.map(items)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert held < 50_000 < len(items[0]) * len(items)
        assert all(outcome.cached for outcome in pool.map(items))


@pytest.mark.parametrize("what", ["spin", "blocked"])
def test_an_item_over_its_deadline_is_killed_and_the_next_one_runs(pool, what):
    before = time.monotonic()
    slow, fast = pool.map([{"do": what}, {"do": f"after {what}"}], timeout_s=0.5)
    assert slow.status == "timeout"
    assert fast.status == "ok"
    assert time.monotonic() - before < 20
    assert pool.map([{"do": f"again {what}"}])[0].status == "ok"


def test_a_timeout_ends_the_workers_whole_group(pool, tmp_path):
    note = tmp_path / "child"
    assert pool.map([{"do": "child", "file": str(note)}], timeout_s=0.5)[0].status == "timeout"
    wait_until(lambda: not running(int(note.read_text())))


@pytest.mark.parametrize(
    ("item", "status"),
    [
        ({"do": "die"}, "crash"),
        ({"do": "exit"}, "crash"),
        ({"do": "raise"}, "error"),
        ({"do": "flood"}, "error"),
        ({"do": "allocate", "mb": 4096}, "error"),
    ],
)
def test_every_way_to_fail_has_its_status(pool, item, status):
    assert pool.map([item])[0].status == status
    assert pool.map([{"do": f"after {item['do']}"}])[0].status == "ok"


def test_failures_are_not_cached(pool):
    assert pool.map([{"do": "raise"}])[0].status == "error"
    assert not pool.map([{"do": "raise"}])[0].cached


def test_a_batch_deadline_gives_what_was_done(pool):
    items = [{"do": "quick"}] + [{"do": "sleep", "s": 30 + i} for i in range(4)]
    outcomes = pool.map(items, timeout_s=60.0, deadline_s=1.0)
    assert outcomes[0].status == "ok"
    assert [o.status for o in outcomes[1:]] == ["deadline"] * 4


def test_workers_are_replaced_after_their_share_of_items():
    with Pool("pool_helpers:pid", workers=1, recycle_after=3) as pool:
        pids = [o.value for o in pool.map(list(range(9)))]
        assert len(set(pids)) == 3


def test_a_pool_may_be_shared_by_threads(pool):
    results = {}

    def work(name):
        items = [{"do": f"{name} {i}"} for i in range(20)] + [{"do": "sleep", "s": 0.01}]
        results[name] = [o.value for o in pool.map(items, timeout_s=20.0)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in range(6):
        assert results[name] == [f"{name} {i}" for i in range(20)] + ["sleep"]


def test_the_pool_outlives_the_thread_that_started_it():
    with Pool("pool_helpers:pid", workers=1) as pool:
        pids = []
        thread = threading.Thread(target=lambda: pids.append(pool.map([1])[0].value))
        thread.start()
        thread.join()
        time.sleep(0.2)
        assert pool.map([2])[0].value == pids[0]


def test_asyncio_use(pool):
    async def both():
        return await asyncio.gather(
            pool.map_async([{"do": "one"}]), pool.map_async([{"do": "two"}])
        )

    assert [o[0].value for o in asyncio.run(both())] == ["one", "two"]


def test_a_killed_server_is_replaced(pool):
    pool.map([{"do": "warm"}])
    server = pool._server
    server.kill()
    server.wait()
    items = [{"do": "sleep", "s": 0.01 + i / 1e4} for i in range(6)]
    assert {o.status for o in pool.map(items, timeout_s=20.0)} == {"ok"}


def test_a_closed_pool_says_so_and_leaves_no_process():
    pool = Pool("pool_helpers:pid", workers=2)
    pids = {o.value for o in pool.map([1, 2, 3])}
    pool.close()
    wait_until(lambda: not any(map(running, pids)))
    with pytest.raises(PoolError):
        pool.map([1])


def test_a_target_that_does_not_import_is_a_pool_error():
    with Pool("pool_helpers_missing:f", workers=1) as pool, pytest.raises(PoolError):
        pool.map([1])


def script(tmp_path, body):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(body))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )


def test_a_script_without_a_main_guard_runs_once(tmp_path):
    done = script(
        tmp_path,
        """
        print("started")
        from r1jax.rewards import math
        verdicts = math.verify_batch([("x+1", "1+x"), ("x", "y")], workers=2)
        print([v.correct for v in verdicts])
        """,
    )
    assert done.stdout.split("\n")[:2] == ["started", "[True, False]"], done.stderr


def test_workers_die_with_a_killed_parent(tmp_path):
    done = script(
        tmp_path,
        """
        import os, signal
        from r1jax.rewards.pool import Pool
        pool = Pool("pool_helpers:pid", workers=1)
        print(pool.map([1])[0].value, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    pid = int(done.stdout)
    wait_until(lambda: not running(pid))


def test_batches_of_verdicts_agree_with_single_ones():
    pairs = [
        ("\\boxed{5}", "5"),
        ("\\boxed{x+1}", "1+x"),
        ("\\boxed{x}", "y"),
        ("\\boxed{\\frac{1}{}", "5"),
        ("\\boxed{2}", "\\frac{1}{"),
        ("\\boxed{\\frac12}", "0.5"),
        ("\\boxed{x+1}", "1+x"),
    ]
    expected = [math.verify(*pair).correct for pair in pairs]
    assert [v.correct for v in math.verify_batch(pairs, workers=2)] == expected
    assert [v.correct for v in math.verify_batch(pairs, workers=0)] == expected
    stats = shared_pool(2).stats()
    assert stats["masked"] >= 1
    assert stats["unparsed"] >= 1


def test_a_batch_out_of_time_is_masked():
    pairs = [(f"\\boxed{{x+{i}}}", f"{i}+x") for i in range(200)]
    verdicts = math.verify_batch(pairs, workers=1, deadline_s=0.0)
    assert len(verdicts) == 200
    assert all(v.correct is None for v in verdicts)
