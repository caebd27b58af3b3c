#!/usr/bin/env bash
# Everything that only a GPU can prove, in steps of at most ten minutes each.
#
#   OUT=proofs bash benchmarks/gpu_proofs.sh             every step not done yet at this commit
#   OUT=proofs bash benchmarks/gpu_proofs.sh tests       these steps, done or not
#   OUT=proofs bash benchmarks/gpu_proofs.sh --list      the steps, and the exit codes of those done
#   OUT=proofs LIMIT=10 bash benchmarks/gpu_proofs.sh    begins none after so many seconds: for calls of ten minutes
#
# A step that is cut short is done again by the next call; the training goes on from where it was saved. What a step
# printed is in $OUT/STEP.log, figures are in $OUT/bench, and the training's curve is $OUT/training_curve.png.
set -uo pipefail

cd "$(dirname "$0")/.."
out=$(realpath -m "${OUT:-proofs}")
limit=${LIMIT:-1000000}
python=${PYTHON:-python3}
step_seconds=580
training_seconds=530
kernels=(ada_group_norm_silu bias_residual_stats edm_loss edm_precondition_input edm_step group_norm_silu replay_gather)
steps=(doctor tests training benchmark_denoiser benchmark_imagination benchmark_updates benchmark_rest
    "${kernels[@]/#/benchmark_}" "${kernels[@]/#/sanitizer_}")
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
mkdir -p "$out"
touch "$out/done"

bench() {
    "$python" -m diamond_fast.bench --out "$out/bench" --minutes 8 --only "$@"
}

# Boxing with the paper's settings but for a shorter first epoch. Stopped by a signal, upon which a run saves itself.
train() {
    local run=$out/boxing how
    if [ -d "$run/checkpoints" ]; then
        how=(--resume "$run")
    else
        rm -rf "$run"
        how=(--game Boxing --preset atari100k --out "$run" --evaluation.every 1 --denoiser-update.steps-first-epoch 400
            --reward-end-update.steps-first-epoch 400 --actor-critic-update.steps-first-epoch 400)
    fi
    timeout --signal=TERM --kill-after=30 "$training_seconds" \
        "$python" -m diamond_fast.train "${how[@]}" --device "${DEVICE:-cuda}"
    local code=$?
    cp "$run/metrics.jsonl" "$out/training_metrics.jsonl" && cp "$run/pictures/learning_curves.png" \
        "$out/training_curve.png" || return 1
    [ "$code" -eq 124 ] || return "$code" # 124: the time was up, as it should be
}

run_step() {
    case $1 in
        doctor) nvidia-smi && "$python" -m diamond_fast.doctor ;;
        tests) "$python" -m pytest tests -m "gpu and not slow" -p no:cacheprovider -v ;;
        benchmark_denoiser) bench fast_denoiser ;;
        benchmark_imagination) bench imagination ;;
        benchmark_updates) bench updates recompute ;;
        benchmark_rest) bench replay collect checkpoint startup ;;
        benchmark_*) bench "${1#benchmark_}" ;;
        sanitizer_*) compute-sanitizer --tool memcheck --error-exitcode 3 --target-processes all \
            "$python" -m pytest "tests/kernels/test_${1#sanitizer_}.py" -m gpu -p no:cacheprovider -v ;;
        training) train ;;
    esac
}

case ${1:-} in
    --run)
        run_step "$2"
        exit
        ;;
    --list)
        for step in "${steps[@]}"; do
            echo "$step: $(grep "^$step $commit " "$out/done" | tail -n 1 | cut -d ' ' -f 3- | grep . || echo not done)"
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
    timeout --kill-after=10 "$step_seconds" bash "$0" --run "$step" 2>&1 | tee "$out/$step.log"
    code=${PIPESTATUS[0]}
    echo "== $step: exit code $code after $((SECONDS - started)) s"
    if [ "$code" -eq 124 ] || [ "$code" -eq 137 ]; then
        echo "== $step: not done within $step_seconds s"
    else
        echo "$step $commit exit code $code" >>"$out/done"
    fi
    [ "$code" -eq 0 ] || failed=1
done
exit $failed
