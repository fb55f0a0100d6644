#!/bin/sh
# The images' entry: says on standard error what it finds, then becomes `td3-brax ARGUMENTS`, so that signals
# reach that and its exit code is the container's.
set -eu

say() {
    echo "image: $*" >&2
}

case "${TD3_BRAX_IMAGE:-}" in
    cuda) least=580 cuda="CUDA 13" ;;
    cuda12) least=525 cuda="CUDA 12" ;;
    *) least=0 ;;
esac

if [ "$least" = 0 ]; then
    say "for CPUs; $(nproc) cores"
elif ! gpus=$(nvidia-smi --query-gpu=driver_version,name --format=csv,noheader 2>&1) || [ -z "$gpus" ]; then
    say "no GPU is seen ($(echo "$gpus" | sed -n '1s/.*: nvidia-smi/nvidia-smi/; 1p')): this runs on the CPU." \
        "Start the container with --gpus all, on a host with NVIDIA's driver and container toolkit"
else
    driver=${gpus%%,*}
    say "$cuda, driver $driver: $(echo "$gpus" | cut -d ' ' -f 2- | sort | uniq -c | sed 's/^ *//' | paste -s -d , -)"
    if [ "${driver%%.*}" -lt "$least" ]; then
        say "that driver is too old: $cuda needs $least or newer. Update the host's driver$(
            [ "$least" = 525 ] || echo ", or build the image with --build-arg EXTRA=cuda12"
        )"
    fi
fi

# Runs are online if asked to be; sweeps unless asked not to be.
online=
case " ${WANDB_SWEEP_ID:+--wandb online} $* " in
    *" --wandb online "* | *" --wandb=online "*) online=1 ;;
    *" --wandb "* | *" --wandb="* | *" --help "*) ;;
    " "*" sweep "*) online=1 ;;
esac
if [ -n "$online" ] && [ -z "${WANDB_API_KEY:-}" ] && [ ! -e "$HOME/.netrc" ]; then
    say "no key for W&B, which is to be online: add -e WANDB_API_KEY, which passes on the shell's own"
fi

for folder in runs "${XDG_CACHE_HOME:-$HOME/.cache}"; do
    if ! mkdir -p "$folder" 2>/dev/null || [ ! -w "$folder" ]; then
        say "$(readlink -f "$folder") can't be written by user $(id -u):" \
            "mount a folder of that user's there, or add --user \$(id -u):\$(id -g)"
    fi
done

exec td3-brax "$@"
