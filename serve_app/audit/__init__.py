"""The audit log: one record a call, in files that are chained and signed.

`log.py` is the interface for the Router. The event loop only puts a record into a bounded queue; a
thread (`writer.py`) renders it (`record.py`, `texts.py`) and hands it to the files (`store.py`).
Each record holds the hash of itself and the record before it (`chain.py`). Now and then the newest
hash is signed (`seal.py`). `verify.py` and `report.py` read the files again, for `serve-app audit`.
"""
