"""A GPU cluster without GPUs: real Ray nodes that claim to have them, and engines that only wait.

What is real: Ray's scheduler, Serve's controller, autoscaler and dashboard, our Router, leases and
HTTP.
"""
