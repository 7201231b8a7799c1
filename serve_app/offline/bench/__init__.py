"""What the service costs before a bare engine, measured: `serve-app bench overhead`."""
