# cmake -DROUTE=<route> -DBUILD=<build> -DSOURCE=<source> -DCOMPILER=<c++> -DGENERATOR=<generator> -P use.cmake
# Builds and runs consumer/ with the library as others get it. The routes:
#   find_package       installed, and the installed tree moved
#   pkg-config         the same, without CMake
#   add_subdirectory   as a folder
#   FetchContent       from a git repository: this one, as it was last committed
#   amalgamation       as one file, which must be that of today's headers
#   vcpkg              by the port, whose steps are run with stand-ins for vcpkg's functions
cmake_minimum_required(VERSION 3.21...3.30)
set(work "${BUILD}/packaging/${ROUTE}")
file(REMOVE_RECURSE "${work}")
file(MAKE_DIRECTORY "${work}")
set(consumer "${CMAKE_CURRENT_LIST_DIR}/consumer")

function(run)
  execute_process(COMMAND ${ARGN} WORKING_DIRECTORY "${work}" RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    string(REPLACE ";" " " command "${ARGN}")
    message(FATAL_ERROR "${command}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

set(build_options -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}" -DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF)

function(build_by_cmake)
  run("${CMAKE_COMMAND}" -S "${consumer}" -B "${work}/build" ${build_options} ${ARGN})
  run("${CMAKE_COMMAND}" --build "${work}/build")
  file(RENAME "${work}/build/consumer" "${work}/consumer")
endfunction()

function(install_and_move)
  run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${work}/installed")
  file(RENAME "${work}/installed" "${work}/moved")
endfunction()

if(ROUTE STREQUAL find_package)
  install_and_move()
  build_by_cmake("-DCMAKE_PREFIX_PATH=${work}/moved")
elseif(ROUTE STREQUAL pkg-config)
  install_and_move()
  set(ENV{PKG_CONFIG_PATH} "${work}/moved/share/pkgconfig")
  run(pkg-config --cflags --libs vaelib)
  separate_arguments(flags UNIX_COMMAND "${output}")
  run("${COMPILER}" -std=c++20 "${consumer}/consumer.cpp" ${flags} -o consumer)
elseif(ROUTE STREQUAL add_subdirectory)
  build_by_cmake("-DVAELIB_SOURCE=${SOURCE}")
elseif(ROUTE STREQUAL FetchContent)
  execute_process(COMMAND git -C "${SOURCE}" rev-parse HEAD OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE
                  RESULT_VARIABLE status ERROR_QUIET)
  if(status EQUAL 0)
    build_by_cmake("-DVAELIB_REPOSITORY=file://${SOURCE}" "-DVAELIB_COMMIT=${commit}")
  else()  # an unpacked archive
    build_by_cmake(-DVAELIB_REPOSITORY=none "-DFETCHCONTENT_SOURCE_DIR_VAELIB=${SOURCE}")
  endif()
elseif(ROUTE STREQUAL amalgamation)
  execute_process(COMMAND awk -f cmake/amalgamate.awk include/vaelib/vae.hpp WORKING_DIRECTORY "${SOURCE}"
                  OUTPUT_FILE "${work}/today.hpp" RESULT_VARIABLE status)
  execute_process(COMMAND "${CMAKE_COMMAND}" -E compare_files "${work}/today.hpp" "${SOURCE}/single_include/vaelib/vae.hpp"
                  RESULT_VARIABLE differs ERROR_QUIET)
  if(NOT status EQUAL 0 OR NOT differs EQUAL 0)
    message(FATAL_ERROR "single_include/vaelib/vae.hpp is not made of today's headers: ./run amalgamate writes it anew")
  endif()
  run("${COMPILER}" -std=c++20 "-I${SOURCE}/single_include" "${consumer}/consumer.cpp" -pthread -lz -o consumer)
elseif(ROUTE STREQUAL vcpkg)
  set(CURRENT_PORT_DIR "${SOURCE}/ports/vaelib")
  set(CURRENT_PACKAGES_DIR "${work}/packages")
  include("${CMAKE_CURRENT_LIST_DIR}/vcpkg_stand_in.cmake")
  include("${CURRENT_PORT_DIR}/portfile.cmake")
  file(GLOB installed RELATIVE "${CURRENT_PACKAGES_DIR}" "${CURRENT_PACKAGES_DIR}/*" "${CURRENT_PACKAGES_DIR}/share/*")
  if(NOT installed STREQUAL "include;share;share/pkgconfig;share/vaelib" OR NOT EXISTS "${CURRENT_PACKAGES_DIR}/share/vaelib/usage")
    message(FATAL_ERROR "the port installs ${installed}")
  endif()
  file(READ "${CURRENT_PORT_DIR}/vcpkg.json" manifest)
  string(JSON version GET "${manifest}" version)
  file(STRINGS "${SOURCE}/include/vaelib/version.hpp" line REGEX "VAELIB_VERSION \"${version}\"")
  if(NOT line)
    message(FATAL_ERROR "vcpkg.json has version ${version}, include/vaelib/version.hpp another one")
  endif()
  build_by_cmake("-DCMAKE_PREFIX_PATH=${CURRENT_PACKAGES_DIR}")
else()
  message(FATAL_ERROR "there is no route '${ROUTE}'")
endif()

run("${work}/consumer")
if(NOT EXISTS "${work}/vae.safetensors")
  message(FATAL_ERROR "the program ran, but saved no vae.safetensors")
endif()
