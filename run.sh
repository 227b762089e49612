#!/usr/bin/env bash
# Set-up and each job in one command: ./run.sh (a first night), ./run.sh night, test, check, fix.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

STUDY=first-night
MIN_FREE_KIB=$((5 * 1024 * 1024))

fail() {
  echo "error: $1" >&2
  exit 2
}

usage() {
  cat <<'EOF'
./run.sh                 set up, make the study first-night, run 12 trials
./run.sh night [OPTION]  go on with it until 07:00; --until HH:MM, --hours N or --trials N instead
./run.sh test [ARG]      set up for development and run the tests on all cores (ARGs go to pytest; -n 0: on one)
./run.sh check           set up likewise and check style, types and the generated pages, without the tests
./run.sh fix             put right what needs no thought: style, order of imports, the generated pages
EOF
}

find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
}

# set_up EXTRAS: installs into .venv unless exactly this was installed before.
set_up() {
  local extras=$1 stamp=".venv/installed$1" python want
  command -v git >/dev/null || fail "git is missing: install it (on Debian or Ubuntu: sudo apt install git) and run this again."
  python=$(find_python)
  [ -n "$python" ] || fail "Python 3.11 or newer is missing: install it (on Debian or Ubuntu: sudo apt install python3 python3-venv) and run this again."
  want="$(cat pyproject.toml constraints.txt | cksum) $PWD"
  if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then return; fi
  [ "$(df -Pk . | awk 'NR == 2 { print $4 }')" -ge "$MIN_FREE_KIB" ] ||
    fail "less than 5 GB of disk are free in $PWD: make room and run this again."
  echo "Setting up .venv (once; a minute or two) ..."
  [ -x .venv/bin/python ] || "$python" -m venv .venv ||
    fail "Python cannot make a virtual environment: install its venv module (on Debian or Ubuntu: sudo apt install python3-venv) and run this again."
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$extras" ||
    fail "installing the packages failed: see pip's message above; check the network and run this again."
  echo "$want" >"$stamp"
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }

set_up_to_run() { if has_gpu; then set_up "[data]"; else set_up ""; fi; }

# on_all_cores ARGS: what pytest needs for it; nothing where ARGS say how many processes, want a debugger, or ask for
# the tests of the GPU, which they would share. Beyond 16 processes the longest test is what takes the time.
on_all_cores() {
  local argument
  for argument in "$@"; do
    case $argument in -n* | --numprocesses* | --pdb | --trace | gpu* | -mgpu*) return ;; esac
  done
  echo --numprocesses logical --maxprocesses 16 --dist worksteal
}

make_study() {
  local home=${AUTORESEARCH_HOME:-trajectories}
  [ -e "$home/$STUDY/study.db" ] || .venv/bin/autoresearch init "$STUDY"
}

case ${1-} in
"")
  set_up_to_run
  make_study
  .venv/bin/autoresearch run "$STUDY" --trials 12
  ;;
night)
  shift
  set_up_to_run
  make_study
  [ $# -gt 0 ] || set -- --until 07:00
  .venv/bin/autoresearch run "$STUDY" "$@"
  ;;
test)
  shift
  set_up "[dev]"
  # shellcheck disable=SC2046 - they are words
  .venv/bin/python -m pytest $(on_all_cores "$@") "$@"
  ;;
check)
  set_up "[dev]"
  .venv/bin/ruff check .
  .venv/bin/ruff format --check .
  .venv/bin/mypy
  .venv/bin/python -m docs.commands --check
  .venv/bin/python -m docs.architecture --check
  ;;
fix)
  set_up "[dev]"
  .venv/bin/ruff check --fix-only .
  .venv/bin/ruff format .
  .venv/bin/python -m docs.commands
  .venv/bin/python -m docs.architecture
  ;;
-h | --help | help) usage ;;
*)
  usage >&2
  fail "'$1' is no command of run.sh."
  ;;
esac
