# What the project's own programs (examples, benchmarks, tests) have in common: strict warnings, and build/bin as their place.
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(vaelib_warnings INTERFACE)
target_compile_options(vaelib_warnings INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Werror)

set(VAELIB_LONG_RUN_FLAGS "" CACHE STRING "Flags of the programs that compute for long, where a build is otherwise unoptimised")

# vaelib_find(<package> <target> <Debian package>): find_package or one sentence that says what to install.
macro(vaelib_find package target debian)
  find_package(${package} QUIET)
  if(NOT TARGET ${target})
    message(FATAL_ERROR "vaelib: ${package} was not found (Debian and Ubuntu: apt install ${debian}). "
                        "What needs it can be left out: -DVAELIB_BUILD_TESTS=OFF, _EXAMPLES=OFF or _BENCHMARKS=OFF.")
  endif()
endmacro()

# vaelib_program(<name> SOURCES <file>... [LINK <target>...]): an executable in build/bin.
function(vaelib_program name)
  cmake_parse_arguments(PARSE_ARGV 1 program "" "" "SOURCES;LINK")
  add_executable(${name} ${program_SOURCES})
  target_link_libraries(${name} PRIVATE vaelib::vaelib vaelib_warnings ${program_LINK})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
endfunction()

add_custom_target(vaelib_programs)  # all examples and benchmarks

# vaelib_programs_of_folder([LINK <target>...]): one program a .cpp file of this folder, one a subfolder with a main.cpp.
function(vaelib_programs_of_folder)
  cmake_parse_arguments(PARSE_ARGV 0 folder "" "" "LINK")
  file(GLOB entries CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*")
  foreach(entry IN LISTS entries)
    if(IS_DIRECTORY "${entry}")
      file(GLOB sources CONFIGURE_DEPENDS "${entry}/*.cpp")
      if(NOT "${entry}/main.cpp" IN_LIST sources)
        set(sources "")
      endif()
    else()
      file(GLOB sources CONFIGURE_DEPENDS "${entry}")
      list(FILTER sources INCLUDE REGEX "[.]cpp$")
    endif()
    if(sources)
      cmake_path(GET entry STEM name)
      vaelib_program(${name} SOURCES ${sources} LINK ${folder_LINK})
      add_dependencies(vaelib_programs ${name})
    endif()
  endforeach()
endfunction()
