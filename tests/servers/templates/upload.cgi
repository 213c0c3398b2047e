#!/bin/sh
# Tells the length and the hash of the body, and how it came.
body=$(mktemp)
trap 'rm -f "$body"' EXIT
cat >"$body"
printf 'Content-Type: application/json\r\n\r\n'
printf '{"method": "%s", "length": %d, "sha256": "%s", "user": "%s", "client": "%s", "transfer_encoding": "%s"}\n' \
    "$REQUEST_METHOD" "$(wc -c <"$body")" "$(sha256sum <"$body" | cut -d ' ' -f 1)" \
    "$REMOTE_USER" "$SSL_CLIENT_SAN_Email_0" "$HTTP_TRANSFER_ENCODING"
