"""Labels from a service's own traffic: sample, ask the other tier in idle time, compare, store.

`collector.py` is the interface for the other layers. For a call that is drawn (`sampling.py`) the
answer is copied as it passes (`capture.py`). The answer's text (`answer_text.py`) and the prompt
are redacted (`core/redact.py`) and stored (`store.py`, `lines.py`). Then the call waits in
`labeller.py` until the tiers are idle (`idle.py`). `label_maker.py` asks the other tier (`ask.py`)
and compares the answers (`compare.py`, `judge.py`).
"""
