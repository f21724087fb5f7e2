# cmake -DINCLUDE=<include folder> -P check_includes.cmake
# The rule of the house: an include may only point to a row above its own. The rows, from the top; a folder may also include
# its own files. vae.hpp and xtensor.hpp gather what others made, so they may include everything, and nothing includes them.
# Slow standard headers are kept out of what every user compiles.
cmake_minimum_required(VERSION 3.21...3.30)
set(rows version.hpp core backend autodiff schedules layers
    likelihoods latents quantizers priors regularizers optim
    models io data train metrics report)
set(gather vae.hpp xtensor.hpp)
set(slow iostream random regex ranges functional)
set(may_be_slow xtensor.hpp metrics report)

file(GLOB_RECURSE headers RELATIVE "${INCLUDE}/vaelib" "${INCLUDE}/vaelib/*.hpp" "${INCLUDE}/vaelib/*.cuh")
list(LENGTH headers count)
if(count EQUAL 0)
  message(FATAL_ERROR "no headers in ${INCLUDE}/vaelib")
endif()

set(wrong "")
foreach(header IN LISTS headers)
  string(REGEX REPLACE "/.*" "" row "${header}")
  list(FIND rows "${row}" place)
  if(place EQUAL -1 AND NOT row IN_LIST gather)
    string(APPEND wrong "  ${header}: '${row}' is no row of the house\n")
    continue()
  endif()

  file(STRINGS "${INCLUDE}/vaelib/${header}" lines REGEX "^ *# *include")
  foreach(line IN LISTS lines)
    if(line MATCHES "include *\"")
      string(APPEND wrong "  ${header}: ${line} (written <vaelib/...>)\n")
    elseif(line MATCHES "<vaelib/([^/>]+)" AND NOT row IN_LIST gather)
      set(target "${CMAKE_MATCH_1}")
      list(FIND rows "${target}" target_place)
      if(target_place EQUAL -1 OR target_place GREATER place)
        string(APPEND wrong "  ${header}: ${line} points downwards\n")
      endif()
    elseif(line MATCHES "<([a-z]+)>" AND CMAKE_MATCH_1 IN_LIST slow AND NOT row IN_LIST may_be_slow)
      string(APPEND wrong "  ${header}: ${line} costs every user compile time\n")
    endif()
  endforeach()
endforeach()

if(wrong)
  message(FATAL_ERROR "includes against the order of the house:\n${wrong}")
endif()
message(STATUS "${count} headers in order")
