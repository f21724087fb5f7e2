#!/usr/bin/env bash
# tests/first_minutes.sh: what a new user tries in the first quarter of an hour, each line with what is expected of it. Wants
# what `./run test` and `./run interchange` built; works in a temporary folder, from an installed tree and the program vae.
# The last line is "N passed, M failed".
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build
python=$build/venv/bin/python
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
passed=0 failed=0

outcome() {  # SENTENCE: reads $? and shows ./log where it is not 0
  if [ $? -eq 0 ]; then
    echo "ok      $1"
    passed=$((passed + 1))
  else
    echo "FAILED  $1"
    [ ! -e log ] || sed 's/^/        /' log | tail -n 15
    failed=$((failed + 1))
  fi
}

# expect SENTENCE CODE PATTERN COMMAND...: it ends by this exit code, and a line that it prints matches the pattern.
expect() {
  local sentence=$1 code=$2 pattern=$3 got=0
  "${@:4}" >log 2>&1 </dev/null || got=$?
  [ "$got" -eq "$code" ] || echo "exit code $got, expected $code" >>log
  [ "$got" -eq "$code" ] && { [ -z "$pattern" ] || grep -Eq -e "$pattern" log; }
  outcome "$sentence"
}

# after_epoch RUN SIGNAL COMMAND...: sends the signal at the end of the next epoch, and returns the command's exit code.
after_epoch() {
  local process
  touch begun
  env --default-signal=INT "${@:3}" &
  process=$!
  until [ "$1/metrics.csv" -nt begun ] || ! kill -0 "$process" 2>/dev/null; do sleep 0.01; done
  kill -s "$2" "$process" 2>/dev/null
  wait "$process" 2>/dev/null
}

files() { ls -d "$@"; }

# ------------------------------------------------------------------------------------------------------------ the library
expect "the library installs" 0 'vaelib.pc' cmake --install "$build" --prefix "$folder/prefix"
cat >a.cpp <<'CODE'
#include <vaelib/vae.hpp>
int main() {
  vaelib::data::Shapes images{.image_size = 16, .images = 500};
  vaelib::Trainer trainer{vaelib::models::fc_vae(images.shape(), 32, 4)};
  trainer.fit(images, {.epochs = 1});
  vaelib::save("m.safetensors", trainer.weights());
}
CODE
export PKG_CONFIG_PATH=$folder/prefix/share/pkgconfig
expect "pkg-config finds it" 0 '^-I' pkg-config --cflags --libs vaelib
# shellcheck disable=SC2046  # flags are words
expect "a program of a few lines compiles" 0 '' "${CXX:-c++}" -std=c++20 -O1 a.cpp -o a.out $(pkg-config --cflags --libs vaelib)
expect "and trains" 0 '' ./a.out
expect "and has saved its weights" 0 m.safetensors files m.safetensors
cat >b.cpp <<'CODE'
#include <vaelib/vae.hpp>
using namespace vaelib;
Sequential<Shape{28, 28, 1}, Flatten, Conv2d<4, 3>> encoder;
CODE
compile_misfit() {  # the first 15 lines of what the compiler says
  # shellcheck disable=SC2046
  ! "${CXX:-c++}" -std=c++20 -fsyntax-only b.cpp $(pkg-config --cflags vaelib) >all 2>&1 && head -n 15 all
}
expect "a layer that does not fit is an error that names it and its place" 0 'layer_does_not_accept_shape<1, .*Conv2d<4, 3' compile_misfit

# ------------------------------------------------------------------------------------------------------------ the program
PATH=$build/bin:$PATH
small='--images 2000 --epochs 1'
fc="vae train --model-type fc --hidden-size 64 $small"
# shellcheck disable=SC2086  # the flags above are words
{
  expect "help begins with examples" 0 'vae train' vae --help
  expect "help of a command has defaults" 0 '--code-size N .*\[20\]' vae train --help
  expect "it knows its version" 0 '^vae [0-9]+\.[0-9]+\.[0-9]+$' vae --version
  expect "a misspelt flag: what was meant" 2 'did you mean --model-type\?' vae train --model-typ conv
  expect "a value out of range: what was expected" 2 'expected' vae train --epochs 0
  expect "a trial run says what would be done" 0 'parameters' vae train --data shapes $small --dry-run
  ! [ -e runs ]; outcome "and writes nothing"
  expect "a fully connected VAE trains, without a download" 0 '[0-9]' $fc --output-dir r1
  expect "pictures, metrics, report, weights, logs are there" 0 model.safetensors \
    files r1/{model.safetensors,config.json,metrics.csv,metrics.jsonl,training_losses.png,reconstructions.png,generated_samples.png,report.html,report.json,logs/events.out.tfevents.*}
  expect "metrics are a table" 0 '^epoch,.*train_loss.*val_loss' head -n 1 r1/metrics.csv
  expect "and lines of JSON" 0 '"val_loss": [0-9]' "$python" -c 'import json; print(json.dumps(json.loads(open("r1/metrics.jsonl").readline())))'
  expect "config.json can be used again" 0 '[0-9]' vae train --config r1/config.json --seed 1 --output-dir r1_again
  expect "an output folder is not written over" 1 '--resume .*--overwrite' $fc --output-dir r1
  expect "a convolutional VAE trains" 0 '[0-9]' vae train --model-type conv $small --code-size 2 --output-dir r2
  expect "with two dimensions, the latent space is drawn" 0 latent_space files r2/latent_space.png
  expect "a schedule of beta, free bits" 0 '[0-9]' $fc --beta-strategy cyclical --cycle-length 10 --free-bits 0.2 --output-dir r3
  expect "data that are not there: the names of the files" 1 'train-images-idx3-ubyte' vae train --data mnist --data-dir nowhere --output-dir r4
  ! [ -e r4 ]; outcome "and no folder is left"
  expect "the same seed" 0 '[0-9]' $fc --seed 1 --output-dir s1
  expect "once more" 0 '[0-9]' $fc --seed 1 --threads 1 --output-dir s2
  expect "gives the same bytes" 0 '' cmp s1/model.safetensors s2/model.safetensors
  expect "numbers that are not finite: step and name" 1 'step [0-9]+: .* (inf|nan|not finite)' $fc --epochs 20 --lr 1000 --likelihood gaussian --output-dir n
  expect "a device that is not there: one sentence" 1 'cuda.*cpu|cpu.*cuda' $fc --device cuda --output-dir d
  expect "another one" 1 'mps.*cpu|cpu.*mps' $fc --device mps --output-dir d

  long='vae train --model-type conv --data shapes --images 600 --epochs 5 --quiet'
  expect "Ctrl-C saves, and says how to go on" 130 "vae train --output-dir 'k' --resume" after_epoch k INT $long --output-dir k
  expect "it goes on, and is killed" 137 '' after_epoch k KILL $long --output-dir k --resume auto
  expect "it goes on again" 0 '' $long --output-dir k --resume auto
  expect "an undisturbed run" 0 '' $long --output-dir whole
  expect "has the same bytes" 0 '' cmp k/model.safetensors whole/model.safetensors

  expect "new images" 0 '' vae sample r1 --count 64 --seed 7 --output g.png
  expect "the way from one image to another" 0 '' vae interpolate r1 --from 3 --to 8 --output i.png
  expect "likelihood" 0 'log p\(x\)' vae evaluate r1 --samples 5 --count 50
  expect "codes for NumPy" 0 '^\(100, 20\)$' sh -c "vae encode r1 --count 100 --output z.npy >&2 && '$python' -c 'import numpy; print(numpy.load(\"z.npy\").shape)'"
  expect "a report for the browser" 0 'report.html' vae report r1
  expect "which needs nothing from elsewhere" 1 '' grep -Eo '(src|href)="https?:[^"]*"' r1/report.html
  expect "the same numbers as JSON" 0 'active_units' "$python" -m json.tool r1/report.json
  expect "encoder and decoder as ONNX" 0 'decoder.onnx' vae export r1
  expect "TensorBoard and onnxruntime read them" 0 '^2 passed, 0 failed$' "$python" "$root/tests/interchange/check_run.py" r1
  expect "the weights in Python" 0 'encoder.*\(64, 784\)' \
    "$python" -c 'from safetensors.numpy import load_file; print({k: v.shape for k, v in load_file("r1/model.safetensors").items()})'

  cp -r r1 bad && head -c 1000 r1/model.safetensors >bad/model.safetensors
  expect "a truncated file: what it should hold and what it does" 1 'bad/model.safetensors: is truncated: .* need [0-9]+ bytes .* has [0-9]+' vae sample bad
  "$python" -c 'import pickle; pickle.dump({"a": 1}, open("model.pt", "wb"))'
  expect "a pickle is refused, with the name of the converter" 1 'pt_to_safetensors' $fc --init-from model.pt --output-dir p
}
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
