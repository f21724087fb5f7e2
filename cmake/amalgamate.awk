# awk -f cmake/amalgamate.awk include/vaelib/vae.hpp >single_include/vaelib/vae.hpp      (./run amalgamate)
# One header of the library and all of it that it includes, as one file that needs nothing but system headers. Each header
# of the library stands where it was first included, so the order is the compiler's own.

function put(file,    line, part, lines) {
  if (file in seen) return
  seen[file]
  while ((getline line < file) > 0) {
    ++lines
    if (line ~ /^#include <vaelib\//) {
      split(line, part, /[<>]/)
      put("include/" part[2])
    } else if (line !~ /^#pragma once/ && (line != "" || last != "")) {
      print line
      last = line
    }
  }
  if (!lines) stop(file " cannot be read")
  close(file)
}

function stop(sentence) {
  print "amalgamate.awk: " sentence >"/dev/stderr"
  failed = 1
  exit 1
}

BEGIN {
  while ((getline line < "include/vaelib/version.hpp") > 0) {
    if (split(line, part, "\"") == 3 && line ~ /define VAELIB_VERSION /) version = part[2]
  }
  close("include/vaelib/version.hpp")
  if (version == "") stop("include/vaelib/version.hpp names no version; run it in the project's folder")
  print "// vaelib " version " in one file: include/vaelib/vae.hpp and what it includes."
  print "// Made by `./run amalgamate`; what to edit is in include/."
  print "//"
  while ((getline line < "LICENSE") > 0) print (line == "" ? "//" : "// " line)
  print "#pragma once"
  put(ARGV[1])
  exit
}
