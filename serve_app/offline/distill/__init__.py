"""A small model learns the large model's answers: `serve-app distill`.

`log_rows.py` reads the feedback log, `selection.py` says which of its answers may be taught, and
`card.py` counts the rest. `masking.py` and `batches.py` turn the training set into tokens,
`training.py` fits a LoRA adapter, `checkpoint.py` writes it. `compare.py` compares two models by
their answers to held-out questions, and by the strong calls that each of them needs.
"""
