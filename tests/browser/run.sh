#!/usr/bin/env bash
# The status page in a real browser, headless. Needs Node.js with npm, and Chromium; a package
# for the tests is put into target/. With an argument, as SCREENSHOTS: draws docs/status-*.png.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
browser=${CHROMIUM:-$(command -v chromium || true)}
if [ -z "$browser" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q && apt-get install -y -q --no-install-recommends chromium
    browser=$(command -v chromium)
fi
for tool in node npm "${browser:-chromium}"; do
    command -v "$tool" >/dev/null || { echo "test-browser needs $tool" >&2; exit 1; }
done

mkdir -p "$target/browser"
target=$(cd "$target" && pwd)
cp tests/browser/package.json "$target/browser/"
(cd "$target/browser" && npm install --no-package-lock --no-audit --no-fund --silent)

# The newest of the debug builds is the one that was just made.
rdlm=$(ls -t "$target"/*/debug/rdlm | head -1)
export RDLM=$rdlm CHROMIUM=$browser MODULES=$target/browser/
if [ "${1:-}" = SCREENSHOTS ]; then
    node tests/browser/screenshots.mjs docs
    # Two thirds smaller, and nothing of it is seen.
    if command -v pngquant >/dev/null; then
        pngquant --force --ext .png --strip docs/status-*.png
    fi
else
    node --test --test-reporter=spec tests/browser/page.test.mjs
fi
