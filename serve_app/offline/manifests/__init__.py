"""The parts of `cluster/` that follow from a config: written by `serve-app manifests`; no Ray."""
