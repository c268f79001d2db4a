#!/usr/bin/env bash
# Installs what the docker tests need (Debian, as root): a daemon to start, debootstrap for its base image, gVisor.
set -euo pipefail
packages=(debootstrap docker.io runsc)
for package in "${packages[@]}"; do
    if ! dpkg -s "$package" >/dev/null 2>&1; then
        apt-get -qq update
        DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${packages[@]}" >/dev/null
        break
    fi
done
