#!/usr/bin/env bash
# Requests made up from docs/openapi.json, good and bad: every answer has to be as the document
# says. Needs python3 with venv.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
venv=target/schemathesis
. tests/scripts/skip.sh
python3 -m venv "$venv" && "$venv/bin/pip" install -q 'schemathesis>=4.32,<5' ||
    skip "schemathesis cannot be installed"
. tests/scripts/server.sh --max-wait 0.05 --fleetlock 1

# A copy of the document that keeps the waits short, and the lifetimes over a minimum.
document() { # FILE SHORTEST_LIFETIME
    python3 - "$@" <<'PYTHON'
import json, sys
document = json.load(open("docs/openapi.json"))
for name in ["LockRequest", "Renewal", "Conversion"]:
    fields = document["components"]["schemas"][name]["properties"]
    if "wait" in fields:
        fields["wait"] = {"type": "number", "minimum": 0, "maximum": 0.05}
    if float(sys.argv[2]) > 0:
        fields["lifetime"] = {"type": "number", "minimum": float(sys.argv[2]), "maximum": 1e9}
json.dump(document, open(sys.argv[1], "w"))
PYTHON
}
document "$work/any.json" 0
document "$work/long.json" 60

run() { # DOCUMENT OPTIONS...
    # It leaves its notes in the directory where it runs.
    (cd "$work" && "$root/$venv/bin/schemathesis" --config-file "$root/tests/scripts/schemathesis.toml" \
        run "$@" --url "$url" --max-examples "${EXAMPLES:-500}")
}
# A resource without locks is no error, and administrators may delete anything at any time: what
# was made and is looked for again is the second run's. OpenAPI 3.1 has no place for LOCK and UNLOCK,
# which Allow names.
run "$work/any.json" --checks all \
    --exclude-checks use_after_free,ensure_resource_availability,allow_header_conformance
run "$work/long.json" --checks use_after_free,ensure_resource_availability \
    --include-path-regex '^/locks'
