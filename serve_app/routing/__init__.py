"""Which tier answers a call: pure functions of the call and the configuration."""
