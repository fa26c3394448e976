from __future__ import annotations

import threading
import time

from templora.runtime.priority import Pace


def work(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_work_in_pieces_takes_its_share_and_no_more() -> None:
    pace = Pace(0.2)
    for _ in range(6):  # the first piece is not known: it may have begun in another thread
        work(0.005)
        pace()
    assert pace.paused >= 5 * 0.005 * 4


def test_who_hurries_is_not_kept_waiting() -> None:
    pace = Pace(1e-6)

    def work_on() -> None:
        for _ in range(3):
            work(0.001)
            pace()  # for a quarter of an hour

    working = threading.Thread(target=work_on, daemon=True)
    working.start()
    pace.hurry()
    working.join(timeout=60)
    assert not working.is_alive()
