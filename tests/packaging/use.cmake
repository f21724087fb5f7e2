# cmake -DMODE=find_package|add_subdirectory -DBUILD=<build> -DSOURCE=<source> -DCOMPILER=<c++>
#       -DGENERATOR=<generator> -P use.cmake
# Builds and runs consumer/ against the library: installed and moved to another prefix, or added as a folder.
cmake_minimum_required(VERSION 3.21...3.30)
set(work "${BUILD}/packaging/${MODE}")
file(REMOVE_RECURSE "${work}")
file(MAKE_DIRECTORY "${work}")

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    string(REPLACE ";" " " command "${ARGN}")
    message(FATAL_ERROR "${command}\n${output}")
  endif()
endfunction()

set(configure "${CMAKE_COMMAND}" -G "${GENERATOR}" -S "${CMAKE_CURRENT_LIST_DIR}/consumer" -B "${work}/build"
    "-DCMAKE_CXX_COMPILER=${COMPILER}")
if(MODE STREQUAL find_package)
  run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${work}/installed")
  file(RENAME "${work}/installed" "${work}/moved")
  run(${configure} "-DCMAKE_PREFIX_PATH=${work}/moved" -DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF)
else()
  run(${configure} "-DVAELIB_SOURCE=${SOURCE}")
endif()
run("${CMAKE_COMMAND}" --build "${work}/build")
run("${work}/build/consumer")
