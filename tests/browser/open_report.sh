#!/bin/sh
# open_report.sh CHROMIUM PROGRAM FOLDER      PROGRAM: vae, vqvae or setvae
# Trains a small model, and opens its report in headless Chromium: nothing is said on the console, nothing is asked of the
# network, every figure of report.json is there and drawn, and the page is not wider than a phone or a desk.
set -eu
chromium=$1 program=$2 folder=$3
stop() { printf 'open_report: %s\n' "$*" >&2; exit 1; }

rm -rf "$folder"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
case $(basename "$program") in
  vae*)
    "$program" train --quiet --data shapes --images 64 --epochs 2 --model-type fc --hidden-size 16 --code-size 3 --output-dir "$folder/run"
    ;;
  setvae*)
    "$program" train --quiet --sets 64 --least 5 --most 40 --epochs 2 --width 8 --heads 2 --latent 2 --inducing 3 --output-dir "$folder/run"
    ;;
  *)
    "$program" train --quiet --images 64 --image-size 16 --epochs 2 --width 8 --hidden 4 --blocks 1 --codes 16 --code-width 8 --adversarial 0.4 --perceptual 0.1 \
      --discriminator-start 1 --discriminator-width 4 --prior-epochs 1 --model-dir "$folder" --model-name run
    ;;
esac

open_page() {  # PAGE: its document, once all has been loaded, in dom.html
  "$chromium" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking \
    --disable-component-update --user-data-dir="$folder/profile" --enable-logging=stderr --virtual-time-budget=5000 --dump-dom \
    "file://$1" >"$folder/dom.html" 2>"$folder/browser.log" </dev/null || stop "$chromium could not open $1"
  if grep CONSOLE "$folder/browser.log" >&2; then stop "$1: the console is not empty"; fi
}

# The page as it is: what it asks for from elsewhere is an error on the console, by this policy. In report.json every figure has a line of its own.
ids=$(sed -n 's/^ *"\([a-z0-9_]*\)": {"title": .*/\1/p' "$folder/run/report.json")
[ "$(printf '%s\n' "$ids" | wc -l)" -ge 13 ] || stop "report.json: too few figures: $ids"
grep -q "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" "$folder/run/report.html" || stop "the page has no policy"
open_page "$folder/run/report.html"
for id in $ids; do grep -q "<figure id=\"$id\"" "$folder/dom.html" || stop "figure $id is not in the document"; done

# A copy that may run a script, which measures it; as wide as a phone and as a desk.
{
  grep -v Content-Security-Policy "$folder/run/report.html"
  cat <<'PAGE'
<script>addEventListener("load", () => {
  const drawn = [...document.querySelectorAll("figure")].filter(f => {
    const parts = [...f.querySelectorAll("svg, img")];
    return parts.length > 0 && parts.every(p => p.getBoundingClientRect().width > 50 && p.getBoundingClientRect().height > 10 && (p.naturalWidth ?? 1) > 0);
  });
  const page = document.documentElement;
  parent.postMessage(`width ${innerWidth}: ${drawn.length} drawn, ${page.scrollWidth - page.clientWidth} too wide`, "*");
});</script>
PAGE
} >"$folder/measured.html"
cat >"$folder/frames.html" <<'PAGE'
<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,">
<script>addEventListener("message", e => { const p = document.createElement("p"); p.textContent = e.data; document.body.append(p); });</script>
<iframe src="measured.html" width="360" height="800" style="border:0"></iframe>
<iframe src="measured.html" width="1280" height="800" style="border:0"></iframe>
PAGE
open_page "$folder/frames.html"
count=$(printf '%s\n' "$ids" | wc -l | tr -d ' ')
for width in 360 1280; do
  grep -q "width $width: $count drawn, 0 too wide" "$folder/dom.html" ||
    stop "expected width $width: $count drawn, 0 too wide; found: $(grep -o 'width [0-9]*: [^<]*' "$folder/dom.html")"
done
printf '%s figures\n' "$count"
rm -rf "$folder"
