"""Labels from a service's own traffic: sample, ask the other tier in idle time, compare, store.

`collector.py` is what the other layers talk to. A call that is drawn (`sampling.py`) has its answer
copied as it passes (`capture.py`); its text (`answer_text.py`) and prompt are redacted
(`redact.py`) and stored (`store.py`, `lines.py`), and it waits for `labeller.py`, which asks the
other tier while that tier is idle, and compares the answers (`compare.py`, `judge.py`).
"""
