#!/bin/sh
# What Ray starts as HAProxy (RAY_SERVE_HAPROXY_BINARY_PATH). It is no console script because an environment that
# was made by an earlier version would not have it. Ray looks for HAProxy under this process's id, hence exec.
exec "${SERVE_APP_PYTHON:?is not set; see serve-app env}" -P -m serve_app.cli.haproxy "$@"
