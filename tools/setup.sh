#!/usr/bin/env bash
# Makes .venv and installs the locked packages into it; does nothing when nothing changed.
#   tools/setup.sh run     what running flywheel needs
#   tools/setup.sh dev     that and the tools of `make test` and `make check`
# PYTHON names the interpreter, TORCH_INDEX the index that holds torch's CPU build.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-run}
case $what in run | dev) ;; *) echo "setup: $what? it is run or dev" >&2 && exit 1 ;; esac
bin=.venv/bin/python

say() { echo "setup: $*"; }
die() {
    echo "setup: $*" >&2
    exit 1
}

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON is not a program; give the path of a Python 3.11 or newer"
        recent "$PYTHON" || die "$PYTHON is $("$PYTHON" --version 2>&1); Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …"
        python=$PYTHON
        return
    fi
    for python in python3 python3.13 python3.12 python3.11; do
        if recent "$python"; then return; fi
    done
    die "no Python 3.11 or newer on PATH (python3 is $(python3 --version 2>&1 || true)); install one, or: make PYTHON=/path/to/python3.11 …"
}

install_system_packages() {
    local packages=() as_root=()
    command -v bwrap >/dev/null || packages+=(bubblewrap)
    "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || packages+=(libnuma1)
    if [ ! -x $bin ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        packages+=("$("$python" -c 'import sys; print(f"python3.{sys.version_info.minor}-venv")')")
    fi
    [ ${#packages[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        die "missing: ${packages[*]} (Debian's names) and there is no apt-get; install them with this system's package manager, then try again"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "missing: ${packages[*]}; run as root: apt-get update && apt-get install -y ${packages[*]}"
        as_root=(sudo)
        [ -t 0 ] || as_root=(sudo -n)
    fi
    say "installing ${packages[*]} with apt-get"
    "${as_root[@]}" apt-get -qq update || say "apt-get update failed; going on with the package lists that are there"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${packages[@]}" >/dev/null ||
        die "apt-get could not install ${packages[*]}; install them by hand, then try again"
}

make_venv() {
    if [ -x $bin ] && recent $bin && $bin -m pip --version >/dev/null 2>&1; then return; fi
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv || die "$python can't make a virtual environment; install its venv module (Debian: python3-venv), then try again"
}

# Runs pip and says how far it is: one line that is rewritten on a terminal, one line in 25 packages elsewhere.
pip_install() {
    local live=0
    [ ! -t 1 ] || live=1
    $bin -m pip install --disable-pip-version-check --progress-bar off --no-deps "$@" | awk -v live=$live '
        /^(Collecting|Processing) / { n++; if (live) printf "\r\033[K  %d %s", n, $2; else if (n % 25 == 0) print "  " n " packages" }
        /^Installing collected/ { printf "%s  unpacking\n", live ? "\r\033[K" : "" }
        { fflush() }
    ' || die "pip failed (its message is above); check the network and the disk, then run the same command again: it goes on where it stopped"
}

# torch's CPU build: from pip's own settings where they know one, else from PyTorch's index. PyPI's own Linux build wants CUDA.
install_torch() {
    local pin
    pin=$(sed -n 's/^torch==/torch==/p' requirements.lock)+cpu
    if $bin -m pip install --disable-pip-version-check -q --no-deps "$pin" >/dev/null 2>&1; then return; fi
    pip_install --extra-index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" "$pin"
}

fingerprint() { cat requirements*.lock pyproject.toml tools/setup.sh | sha256sum | cut -d' ' -f1; }

install_packages() {
    local lists=(-r requirements.lock) now
    [ "$what" = run ] || lists+=(-r requirements-dev.lock)
    now=$(fingerprint)
    # dev holds everything that run does
    if [ "$(cat .venv/.flywheel-dev 2>/dev/null)" = "$now" ]; then return; fi
    if [ "$what" = run ] && [ "$(cat .venv/.flywheel-run 2>/dev/null)" = "$now" ]; then return; fi
    if compgen -G '.venv/lib/python3*/site-packages/vllm-[0-9]*.dist-info' >/dev/null; then
        say "this .venv holds the GPU build of vLLM: its packages are left as they are"
        lists=()
        [ "$what" = run ] || lists=(-r requirements-dev.lock)
    else
        say "installing $(cat requirements.lock requirements-dev.lock | grep -c '==') packages at most; a few minutes the first time"
        install_torch
    fi
    [ ${#lists[@]} -eq 0 ] || pip_install "${lists[@]}"
    $bin -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e . || die "could not install flywheel itself into .venv"
    echo "$now" >".venv/.flywheel-$what"
    say "ready"
}

[ "$(uname -s)" = Linux ] || die "Linux is needed (the sandbox is bubblewrap); on $(uname -s) use a Linux container or virtual machine"
find_python
install_system_packages
make_venv
if nvidia-smi >/dev/null 2>&1 && ! compgen -G '.venv/lib/python3*/site-packages/vllm-[0-9]*.dist-info' >/dev/null; then
    say "this machine has an NVIDIA GPU and .venv the CPU build; for the GPU: rm -rf .venv && python3 -m venv .venv && .venv/bin/pip install -e '.[gpu]'"
fi
install_packages
