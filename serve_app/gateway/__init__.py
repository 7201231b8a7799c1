"""HTTP: routes, wire formats and streaming. The only package that imports starlette."""
