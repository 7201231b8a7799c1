"""A discrete-event simulation of tiers under load, which judges autoscaling policies."""
