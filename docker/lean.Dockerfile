# Lean 4 at a pinned version, the REPL and lean4checker that match it, and what flywheel's sandbox needs.
# From the repository's root: docker build -f docker/lean.Dockerfile -t flywheel-lean .
FROM debian:bookworm-slim

ARG LEAN_VERSION=v4.20.0
RUN apt-get update \
 && apt-get install -y --no-install-recommends bubblewrap ca-certificates curl git python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
COPY tools/install_lean.sh /usr/local/bin/install_lean
RUN LEAN_VERSION=$LEAN_VERSION install_lean
ENV PATH=/root/.elan/bin:$PATH
WORKDIR /work
