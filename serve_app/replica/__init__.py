"""An engine's side of a tier: the server of a replica, and the door before its engine."""
