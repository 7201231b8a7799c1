"""The account of a Router's CPU, from samples."""

from __future__ import annotations

from serve_app.offline.bench.gateway.account import account, build_account

SAMPLES = """\
run (uvloop/__init__.py:5);send (uvicorn/protocols/http/httptools_impl.py:9);write (libc.so.6) 60
run (uvloop/__init__.py:5);_call (serve_app/gateway/handlers.py:3);__aexit__ (contextlib.py:7) 30
run (uvloop/__init__.py:5);_call (serve_app/gateway/handlers.py:8) 9
run (uvloop/__init__.py:5);task_step (_asynciomodule.c) 1
Thread.run (threading.py);_worker (concurrent/futures/thread.py:81);wait (libc.so.6) 500
run (uvloop/__init__.py:5);epoll_wait (libc.so.6) 700
""".splitlines()


def test_time_goes_to_the_nearest_known_file() -> None:
    """System calls have a row of their own, and waiting has none."""
    assert account(SAMPLES) == {
        "system call write, from uvicorn/protocols/http/httptools_impl.py": 60,
        "serve_app/gateway/handlers.py": 39,
        "event loop": 1,
    }


def test_shares_become_microseconds() -> None:
    """Parts below a microsecond are one row."""
    rows = build_account(account(SAMPLES), 50.0, 10.0, "A call").rows
    assert [row[1:3] for row in rows] == [("60.0%", "30.0"), ("39.0%", "19.5"), ("1.0%", "0.5")]
    assert [row[3] for row in rows] == ["3.00", "1.95", "0.05"]
    assert rows[-1][0] == "smaller parts"
