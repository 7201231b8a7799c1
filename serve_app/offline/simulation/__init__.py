"""A discrete-event simulation of tiers under load: what an autoscaling policy is judged by."""
