#!/usr/bin/env bash
# Plan for the hardware found, fine-tune a real model with that plan, and ask it what it learnt.
set -euo pipefail

run="runs/demo-$(date +%Y%m%d-%H%M%S)"
mkdir -p runs

step() {
  printf '\n$ %s\n\n' "$*"
  "$@"
}

step plan --model smollm2-135m --recipe demo --micro-batch-size 8 -o runs/demo.yaml --force
step launch runs/demo.yaml --output "$run"
step python -m launcher.quiz "$run"
