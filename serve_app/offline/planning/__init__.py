"""What a config needs and what it will do, computed before anything starts: `serve-app plan`.

`resolve` takes a tier to the facts of its `models`, with their `vision` towers; `quantization` with
`compressed`, `engine` and `cards` say how they are stored, run and on what. `memory` says what
fits, `checks` what cannot work, `suggest` what would, `roofline` how fast it could be, `cost` what
it takes of a cluster. `plan` puts them together, `compare` finds the cheapest way that is fast
enough, and `report` prints. Nothing here imports Ray, vLLM or torch.
"""
