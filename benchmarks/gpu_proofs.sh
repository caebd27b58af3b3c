#!/usr/bin/env bash
# Everything that only a GPU can prove, on a machine that has torch, Triton, a C++ compiler and nothing of this project.
#
#   bash benchmarks/gpu_proofs.sh --wheels 3.12          where there is a network: what such a machine lacks, to wheels/
#   OUT=proofs bash benchmarks/gpu_proofs.sh             every step not done yet at this commit
#   OUT=proofs bash benchmarks/gpu_proofs.sh setup tests these steps, done or not
#   OUT=proofs bash benchmarks/gpu_proofs.sh --list      the steps, their time, and the exit codes of those done
#   OUT=proofs LIMIT=10 bash benchmarks/gpu_proofs.sh    begins none after so many seconds: for calls of ten minutes
#   TESTS_SECONDS=200 bash benchmarks/gpu_proofs.sh      a step's time; a step that is cut short is done again
#   REHEARSAL=1 bash benchmarks/gpu_proofs.sh            on a CPU, in a minute: do all steps run? Figures mean nothing
#
# What there is in the end, all of it directly in $OUT: done (the steps), figures.jsonl (a line for each row, as soon as
# it is measured), bench.json (all rows, and the machine), training_metrics.jsonl, training_curve.png, logs.tar.gz.
set -uo pipefail

cd "$(dirname "$0")/.."
itself=$PWD/benchmarks/$(basename "$0")
out=$(realpath -m "${OUT:-proofs}")
work=$(realpath -m "${WORK:-build/proofs}")
wheels=${WHEELS:-wheels}
limit=${LIMIT:-1000000}
python=${PYTHON:-python3}
rehearsal=${REHEARSAL:-}
lacking=(tyro docstring-parser typeguard gymnasium farama-notifications ale-py zstandard)
steps=(setup tests denoiser imagination updates training runs kernels rivals rest sanitizer)
declare -A seconds=([setup]=300 [tests]=540 [denoiser]=420 [imagination]=240 [updates]=420 [training]=560 [runs]=580
    [kernels]=240 [rivals]=560 [rest]=300 [sanitizer]=580)
kernels=()
for file in kernels/[a-z]*.py; do
    name=$(basename "$file" .py)
    [ -f "benchmarks/test_$name.py" ] && kernels+=("$name")
done
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
device=${DEVICE:-cuda}
[ -z "$rehearsal" ] || device=cpu
export DIAMOND_FAST_CACHE=${DIAMOND_FAST_CACHE:-$work/cache}

seconds_of() {
    local given=${1^^}_SECONDS
    echo "${!given:-${seconds[$1]}}"
}

set_up() {
    local extensions=(install -e . --no-deps --no-build-isolation)
    if compgen -G "$wheels/*.whl" >/dev/null; then
        "$python" -m pip install --no-index --no-deps "$wheels"/*.whl || return 1
    fi
    if [ -n "$rehearsal" ]; then # what is installed there stays as it is
        "$python" -m pip "${extensions[@]}" --dry-run && "$python" -m diamond_fast.doctor --help
        return
    fi
    "$python" -m pip "${extensions[@]}" && nvidia-smi && "$python" -m diamond_fast.doctor
}

gpu_tests() {
    local which=(tests -m "gpu and not slow" -v)
    [ -z "$rehearsal" ] || which=(tests/kernels tests/engine/test_on_gpu.py -m gpu --collect-only)
    "$python" -m pytest "${which[@]}" -p no:cacheprovider
}

# Figures of these benchmarks. A rehearsal takes each step's first one, at tiny size, and all of them in the last step:
# a start of Python, a look at the machine and the tables cost more than they do.
bench() {
    local how=(--rivals "$1") which=("${@:2}")
    if [ -n "$rehearsal" ]; then
        echo "$2" >>"$work/to_bench"
        [ "$step" = rest ] || return 0
        mapfile -t which < <(sort -u "$work/to_bench")
        how+=(--tiny)
        rm "$work/to_bench"
    fi
    "$python" -m diamond_fast.bench --out "$work/bench" --rows "$out/figures.jsonl" "${how[@]}" --only "${which[@]}"
    local code=$?
    cp "$work/bench/"*.json "$out/bench.json"
    return $code
}

# Benchmarks with nothing to measure on a CPU: a rehearsal collects one of them, once.
bench_on_gpu() {
    if [ -z "$rehearsal" ]; then
        bench "$@"
    elif [ "$step" = rivals ]; then
        "$python" -m pytest benchmarks/test_edm_step.py "--rivals=$1" --collect-only -m gpu -p no:cacheprovider
    fi
}

# Boxing with the paper's settings but for a shorter first epoch. Stopped by a signal, upon which a run saves itself.
train() {
    local run=$work/boxing how
    if [ -d "$run/checkpoints" ]; then
        how=(--resume "$run")
    else
        rm -rf "$run"
        how=(--game Boxing --preset atari100k --out "$run" --evaluation.every 1 --denoiser-update.steps-first-epoch 400
            --reward-end-update.steps-first-epoch 400 --actor-critic-update.steps-first-epoch 400)
        [ -z "$rehearsal" ] || how=(--domain catch --preset catch --out "$run" --evaluation.every 1
            --num-final-epochs 1 --collection.num-steps-total 100 --collection.first-epoch-min 100
            --collection.first-epoch-max 100 --denoiser-update.steps-first-epoch 1
            --reward-end-update.steps-first-epoch 1 --actor-critic-update.steps-first-epoch 1
            --denoiser-update.batch-size 2 --reward-end-update.batch-size 2 --actor-critic-update.batch-size 2
            --evaluation.num-episodes 1 --evaluation.num-final-episodes 1)
    fi
    timeout --signal=TERM --kill-after=30 $(($(seconds_of training) - 30)) \
        "$python" -m diamond_fast.train "${how[@]}" --device "$device"
    local code=$?
    cp "$run/metrics.jsonl" "$out/training_metrics.jsonl" && cp "$run/pictures/learning_curves.png" \
        "$out/training_curve.png" || return 1
    [ "$code" -eq 124 ] || return "$code" # 124: the time was up, as it should be
}

# Every kind of run there is, a few updates of each to its end, on paths that the machine chooses.
run_all_kinds() {
    local failed=0 seconds kind kinds=(
        "--preset catch --memory mamba" "--preset catch --memory gru" "--preset catch --memory attention"
        "--preset catch --world-model.student --student-update.steps-first-epoch 8 --student-update.steps-per-epoch 8"
        "--preset catch --formulation flow" "--preset catch --formulation ddpm" "--preset catch --precision fp32"
        "--preset catch --reward-head symlog-bins --reward-end-event-share 0.5" "--preset catch --model-free"
        "--preset catch --num-autoregressive-steps 2" "--game Boxing --preset small-dit"
        "--game Boxing --preset small-unet3d" "--game Boxing --preset small-cross-attention")
    [ -z "$rehearsal" ] || kinds=("--preset catch --memory attention --denoiser-update.batch-size 2
        --actor-critic-update.batch-size 2 --world-model.num-batches-to-preload 1")
    for kind in "${kinds[@]}"; do
        echo "== $kind"
        seconds=$SECONDS
        rm -rf "$work/kind"
        # shellcheck disable=SC2086 # words of a command
        "$python" -m diamond_fast.train $kind --device "$device" --out "$work/kind" --evaluation.every 1 \
            --evaluation.num-episodes 1 --evaluation.num-final-episodes 1 --num-final-epochs 1 \
            --collection.num-steps-total 300 --collection.first-epoch-min 300 --collection.first-epoch-max 300 \
            --denoiser-update.steps-first-epoch 8 --denoiser-update.steps-per-epoch 8 \
            --reward-end-update.steps-first-epoch 8 --reward-end-update.steps-per-epoch 8 \
            --actor-critic-update.steps-first-epoch 8 --actor-critic-update.steps-per-epoch 8 \
            --actor-critic-update.start-after-epochs 0 || failed=1
        echo "== $((SECONDS - seconds)) s"
    done
    return $failed
}

# A kernel's tests after the other, so that what was found is in the log if the time is up.
sanitize() {
    local sanitizer=(compute-sanitizer --tool memcheck --error-exitcode 3 --target-processes all) failed=0 which=gpu
    [ -z "$rehearsal" ] || sanitizer=(env) which="not gpu and not slow" kernels=(frames_to_float)
    for kernel in "${kernels[@]}"; do
        # torch's own allocator would hand out pieces of blocks far larger than a tensor, which hide what is beyond it
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 "${sanitizer[@]}" "$python" -m pytest "tests/kernels/test_$kernel.py" \
            -m "$which" -p no:cacheprovider -v || failed=1
    done
    return $failed
}

run_step() {
    case $1 in
        setup) set_up ;;
        tests) gpu_tests ;;
        denoiser) bench without fast_denoiser ;;
        imagination) bench without imagination ;;
        updates) bench without recompute updates ;;
        training) train ;;
        runs) run_all_kinds ;;
        kernels) bench_on_gpu without "${kernels[@]}" ;;
        rivals) bench_on_gpu only fast_denoiser imagination updates "${kernels[@]}" ;;
        rest) bench without checkpoint replay collect startup ;;
        sanitizer) sanitize ;;
    esac
}

mkdir -p "$out" "$work/logs" "$work/bench"
touch "$out/done"
case ${1:-} in
    --run)
        step=$2
        run_step "$step"
        exit
        ;;
    --wheels)
        exec "$python" -m pip download --no-deps --only-binary=:all: --implementation cp --python-version "${2:-3.12}" \
            --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
            --platform manylinux2014_x86_64 --dest "$wheels" "${lacking[@]}"
        ;;
    --list)
        for step in "${steps[@]}"; do
            code=$(grep "^$step $commit " "$out/done" | tail -n 1 | cut -d ' ' -f 3-)
            echo "$step ($(seconds_of "$step") s): ${code:-not done}"
        done
        exit 0
        ;;
esac

chosen=("$@")
[ $# -eq 0 ] && chosen=("${steps[@]}")
for step in "${chosen[@]}"; do
    if [[ " ${steps[*]} " != *" $step "* ]]; then
        echo "$step: no such step; one of ${steps[*]}" >&2
        exit 2
    fi
done

failed=0
for step in "${chosen[@]}"; do
    if [ $# -eq 0 ] && grep -q "^$step $commit " "$out/done"; then continue; fi
    if [ "$SECONDS" -gt "$limit" ]; then
        echo "== $step: left for the next call"
        continue
    fi
    echo "== $step"
    started=$SECONDS
    timeout --kill-after=10 "$(seconds_of "$step")" bash "$itself" --run "$step" 2>&1 | tee "$work/logs/$step.log"
    code=${PIPESTATUS[0]}
    echo "== $step: exit code $code after $((SECONDS - started)) s"
    if [ "$code" -eq 124 ] || [ "$code" -eq 137 ]; then
        echo "== $step: not done within $(seconds_of "$step") s"
    else
        echo "$step $commit exit code $code" >>"$out/done"
    fi
    tar -C "$work" -czf "$out/logs.tar.gz" logs
    [ "$code" -eq 0 ] || failed=1
done
exit $failed
