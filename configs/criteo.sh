#!/usr/bin/env bash
# The whole protocol of a configuration, from the download to the figures, in the project's folder:
#     configs/criteo.sh NAME FOLDER [key=value ...]     # NAME: criteo, criteo_x1, criteo_x4 or criteo_1tb
# FOLDER gets log/, data/, run/ (one codistilled pair, measured on the test rows) and, but for criteo_1tb, comparison/
# (the report to hold against the published log loss). What it costs stands at the top of configs/NAME.yaml. The same
# command goes on where it was stopped. URL=http://... fetches from a mirror.
set -euo pipefail
if (($# < 2)); then
  sed -n '2,6s/^# //p' "$0" >&2
  exit 2
fi
name=$1 folder=$2
shift 2
config=configs/$name.yaml
case $name in
  criteo_1tb) dataset=criteo-1tb logs=("$folder"/log/day_{0..23}.gz) ;; # in the order of time, not of the alphabet
  *) dataset=criteo logs=("$folder/log/train.txt") ;;
esac
encoding=()
for setting in "$@"; do
  case $setting in features.* | prepare.* | train.seed=*) encoding+=(--set "$setting") ;; esac
done

ctr fetch "$dataset" --out "$folder/log" ${URL:+--url "$URL"}
[ -e "$folder/data" ] || ctr prepare "${logs[@]}" --out "$folder/data" --config "$config" "${encoding[@]}"
grep -qs '"status": "finished"' "$folder/run/run.json" ||
  ctr train "$folder/data" --out "$folder/run" --config "$config" "$@"
ctr evaluate "$folder/run" "$folder/data" --json
[ "$name" = criteo_1tb ] || [ -e "$folder/comparison/comparison.json" ] ||
  ctr compare "$folder/data" --out "$folder/comparison" --config "$config" "$@" --json
