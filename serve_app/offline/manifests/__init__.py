"""Generate the parts of `cluster/` that depend on a config: `serve-app manifests`; no Ray."""
