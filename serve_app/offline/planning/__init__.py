"""The needs and the speed of a config, computed before anything starts: `serve-app plan`.

`resolve` finds the facts of a tier's model in `models`, with its vision tower in `vision`.
`quantization`, `compressed`, `engine` and `cards` describe how the weights are stored and run.
`memory` computes what fits, `checks` finds what cannot work, and `suggest` finds changes that fit.
`roofline` estimates the speed, and `cost` the GPUs, nodes and money. `plan` combines all of them,
`compare` finds the cheapest way that is fast enough, and `report` prints. No module here imports
Ray, vLLM or torch.
"""
