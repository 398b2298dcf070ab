#!/usr/bin/env bash
# The Python client: lints, types, the package as pip installs it, and the tests on each Python from
# 3.9 on that is there. What is needed for that is put into target/.
set -euo pipefail
cd "$(dirname "$0")"
target=${CARGO_TARGET_DIR:-../../target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
venv=$target/python
export PYTHONDONTWRITEBYTECODE=1

command -v python3 >/dev/null || { echo "test-python needs python3" >&2; exit 1; }
python3 -m venv "$venv"
"$venv/bin/pip" install -q --disable-pip-version-check mypy pytest ruff typing_extensions
"$venv/bin/ruff" check --no-cache .
"$venv/bin/ruff" format --no-cache --check .
MYPYPATH=. "$venv/bin/mypy" --cache-dir "$target/mypy" rdlm_client tests

# From elsewhere, so that it is the installed one; with its types, and by pytest.
"$venv/bin/pip" install -q --disable-pip-version-check --force-reinstall .
cd "$target"
"$venv/bin/mypy" --cache-dir "$target/mypy" --strict -c '
from rdlm_client import Client
with Client().lock("a") as lock:
    token: int = lock.token'
"$venv/bin/pytest" -q -p no:cacheprovider --rootdir "$OLDPWD" "$OLDPWD/tests"
cd "$OLDPWD"

versions=()
for python in python3 python3.{9..20} "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3; do
    version=$("$python" -c '
import sys
if sys.version_info >= (3, 9): print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true)
    [ -n "$version" ] || continue
    case " ${versions[*]} " in *" $version "*) continue ;; esac
    versions+=("$version")
    "$python" -m unittest discover -s tests >"$target/python-$version.log" 2>&1 &
done
failed=0
for version in "${versions[@]}"; do
    wait -n || failed=1
done
for version in "${versions[@]}"; do
    log=$target/python-$version.log
    echo "Python $version: $(tail -1 "$log")"
    tail -1 "$log" | grep -q '^OK' || cat "$log"
done
exit "$failed"
