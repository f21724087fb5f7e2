# Reads ctest's LastTest.log and prints "N passed, M failed": doctest programs count by their cases, other tests as one each.
# Exits 1 where anything failed or nothing ran.
/^[0-9]+\/[0-9]+ Testing: / { cases = bad = seen = 0 }
/^\[doctest\] test cases:/ {
  line = $0
  gsub(/\033\[[0-9;]*m/, "", line)
  split(line, column, "|")
  split(column[2], good_column, " ")
  split(column[3], bad_column, " ")
  cases += good_column[1]
  bad += bad_column[1]
  seen = 1
}
/^Unable to find executable/ { gone = 1 }  # ctest calls such a test passed in this file
/^Test (Passed|Failed)\.$/ {
  failed_here = gone || $2 == "Failed."
  passed += seen ? cases : !failed_here
  failed += failed_here ? (bad > 0 ? bad : 1) : 0
  gone = 0
}
END {
  printf "%d passed, %d failed\n", passed, failed
  exit failed > 0 || passed == 0
}
