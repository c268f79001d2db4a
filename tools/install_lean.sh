#!/bin/sh
# Installs elan, a pinned Lean 4, the REPL and the kernel checker that match it, where flywheel looks for them. Needs the network, git and curl.
# LEAN_VERSION names another release that all three have a tag for.
set -eu

version=${LEAN_VERSION:-v4.20.0}
cache=$HOME/.cache/flywheel/lean
PATH=${ELAN_HOME:-$HOME/.elan}/bin:$PATH
export PATH

command -v elan >/dev/null || curl -sSf https://elan.lean-lang.org/elan-init.sh | sh -s -- -y --no-modify-path --default-toolchain none
elan toolchain install "leanprover/lean4:$version"
[ -n "$(elan show 2>/dev/null | grep default || true)" ] || elan default "leanprover/lean4:$version"

build() {
    folder=$cache/$1
    [ -d "$folder" ] || git clone -q "https://github.com/$2" "$folder"
    git -C "$folder" fetch -q --tags
    git -C "$folder" checkout -q "$version"
    (cd "$folder" && lake build)
}
mkdir -p "$cache"
build repl leanprover-community/repl
build lean4checker leanprover/lean4checker

echo "Lean $version, its REPL and lean4checker are ready ($cache)."
