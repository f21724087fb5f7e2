# What ports/vaelib/portfile.cmake calls, for a machine without vcpkg: each function does what vcpkg's does for such a port.
# Wanted: CURRENT_PORT_DIR, CURRENT_PACKAGES_DIR, work, run() and build_options (use.cmake).
set(PORT vaelib)

function(vcpkg_check_features)  # no feature is asked for
  set(options -DVAELIB_OPENBLAS=OFF PARENT_SCOPE)
endfunction()

function(vcpkg_cmake_configure)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" SOURCE_PATH OPTIONS)
  run("${CMAKE_COMMAND}" -S "${arg_SOURCE_PATH}" -B "${work}/port" ${build_options} -DCMAKE_BUILD_TYPE=Release
      "-DCMAKE_INSTALL_PREFIX=${CURRENT_PACKAGES_DIR}" ${arg_OPTIONS})
endfunction()

function(vcpkg_cmake_install)
  run("${CMAKE_COMMAND}" --build "${work}/port" --target install)
endfunction()

function(vcpkg_cmake_config_fixup)  # to share/<port>, one folder nearer to the prefix
  cmake_parse_arguments(PARSE_ARGV 0 arg "" CONFIG_PATH "")
  file(RENAME "${CURRENT_PACKAGES_DIR}/${arg_CONFIG_PATH}" "${CURRENT_PACKAGES_DIR}/share/${PORT}")
  file(READ "${CURRENT_PACKAGES_DIR}/share/${PORT}/${PORT}-targets.cmake" text)
  string(REPLACE "get_filename_component(_IMPORT_PREFIX \"\${CMAKE_CURRENT_LIST_FILE}\" PATH)\n"
                 "set(_IMPORT_PREFIX \"\${CMAKE_CURRENT_LIST_FILE}\")\n" text "${text}")
  file(WRITE "${CURRENT_PACKAGES_DIR}/share/${PORT}/${PORT}-targets.cmake" "${text}")
  file(READ "${CURRENT_PACKAGES_DIR}/share/${PORT}/${PORT}-config.cmake" text)
  string(REPLACE "\${CMAKE_CURRENT_LIST_DIR}/../../../" "\${CMAKE_CURRENT_LIST_DIR}/../../" text "${text}")
  file(WRITE "${CURRENT_PACKAGES_DIR}/share/${PORT}/${PORT}-config.cmake" "${text}")
endfunction()

function(vcpkg_fixup_pkgconfig)  # the file is relocatable as it is
endfunction()

function(vcpkg_install_copyright)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "" FILE_LIST)
  file(COPY_FILE "${arg_FILE_LIST}" "${CURRENT_PACKAGES_DIR}/share/${PORT}/copyright")
endfunction()
