#!/bin/sh
# What Ray starts as HAProxy (RAY_SERVE_HAPROXY_BINARY_PATH), and the one process of HAProxy's that Ray knows. HAProxy
# and its supervisor run below this shell. Both may die without Ray's notice, because this shell starts the supervisor
# again, and the supervisor HAProxy (docs/decisions/0015). It is no console script because an environment that was made
# by an earlier version would not have it.
: "${SERVE_APP_PYTHON:?is not set; see serve-app env}"
stopping=
trap 'stopping=1; kill -USR1 "$supervisor" 2>/dev/null' USR1
while :; do
    # The supervisor reads the arguments from this shell's command line: Ray counts every process that has the path of
    # its file among its arguments as one HAProxy.
    "$SERVE_APP_PYTHON" -P -m serve_app.cli.haproxy &
    supervisor=$!
    while :; do
        wait "$supervisor"
        code=$?
        # A signal to this shell ends `wait` too.
        kill -0 "$supervisor" 2>/dev/null || break
    done
    if [ "$code" -le 128 ] || [ -n "$stopping" ]; then exit "$code"; fi
    sleep 0.1
done
