#!/bin/sh
# The model cache, from a list of `HUB_ID DIRECTORY`, one model a line:
#   serve-app-models fetch LIST    downloads what is not there yet
#   serve-app-models verify LIST   checks all of it; writes SHA256SUMS where there is none
#   serve-app-models check LIST    says whether it is there, in a second
set -eu

each() {
    grep -v '^#' "$1"
}

fetch() {
    each "$1" | while read -r id directory; do
        [ -f "$directory/SHA256SUMS" ] || hf download "$id" --local-dir "$directory" < /dev/null
    done
}

verify() {
    each "$1" | while read -r _ directory; do
        # The downloader's own notes are no part of the model.
        rm -rf "$directory/.cache"
        if [ -f "$directory/SHA256SUMS" ]; then
            serve-app verify "$directory" < /dev/null
        else
            serve-app verify "$directory" --write-sums < /dev/null
        fi
    done
}

check() {
    each "$1" | while read -r _ directory; do
        if [ ! -f "$directory/SHA256SUMS" ]; then
            echo "$directory is not in the model cache, or has not been verified" >&2
            exit 1
        fi
    done
}

case "${1:-}" in
    fetch | verify | check) "$1" "$2" ;;
    *)
        echo "usage: serve-app-models fetch|verify|check LIST" >&2
        exit 2
        ;;
esac
