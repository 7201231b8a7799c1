"""Updates and scale-downs that lose no call, on a service with room for them."""
