"""From a config to Ray Serve: plans, builders, engine arguments, facts of the cluster."""
