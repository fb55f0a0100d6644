#!/usr/bin/env bash
# Several sweeps on a machine with several GPUs: one packed sweep per GPU at a time, the next one where one ends.
#
#     sweep-agents.sh sweeps/paper.yaml sweeps/ablations.yaml runs/learning-rate-20261123-101500 ...
#
# Each argument is a sweep's file or, to go on with it, its folder. The GPUs are those of CUDA_VISIBLE_DEVICES, or
# all. Ctrl-C and SIGTERM reach every sweep, and no other starts. The exit code is that of the last that failed.
set -uo pipefail

all() { nvidia-smi --query-gpu=index --format=csv,noheader | tr '\n' ' '; }
IFS=', ' read -r -a free <<<"${CUDA_VISIBLE_DEVICES:-$(all)}"
if ((${#free[@]} == 0 || $# == 0)); then
    echo "sweep-agents: needs GPUs (found ${#free[@]}) and sweeps' files or folders (given $#)" >&2
    exit 2
fi

declare -A gpu_of sweep_of # of each process
stopped=0 failed=0

# shellcheck disable=SC2329 # it is called: by the traps
stop() { # SIGNAL CODE
    stopped=1 failed=$2
    ((${#gpu_of[@]} == 0)) || kill -s "$1" "${!gpu_of[@]}" 2>/dev/null
}
trap 'stop INT 130' INT
trap 'stop TERM 75' TERM

while (($# && !stopped)) || ((${#gpu_of[@]})); do
    while (($# && !stopped && ${#free[@]})); do
        gpu=${free[0]} free=("${free[@]:1}")
        if [[ -d $1 ]]; then sweep=(--resume "$1"); else sweep=("$1"); fi
        CUDA_VISIBLE_DEVICES=$gpu td3-brax sweep "${sweep[@]}" &
        gpu_of[$!]=$gpu sweep_of[$!]=$1
        echo "sweep-agents: $1 on GPU $gpu" >&2
        shift
    done
    wait -n -p ended "${!gpu_of[@]}"
    code=$?
    [[ -n ${ended:-} ]] || continue # a signal came
    echo "sweep-agents: ${sweep_of[$ended]} ended with code $code" >&2
    ((code == 0)) || failed=$code
    free+=("${gpu_of[$ended]}")
    unset "gpu_of[$ended]"
done
exit "$failed"
