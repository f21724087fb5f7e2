# Headers to include/, the CMake package to share/cmake/vaelib, vaelib.pc to share/pkgconfig. Nothing in it depends on the
# processor or on the prefix, so the installed tree may be moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(vaelib_package_folder "${CMAKE_INSTALL_DATADIR}/cmake/vaelib")
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/vaelib-config.cmake.in" "${PROJECT_BINARY_DIR}/vaelib-config.cmake"
                              INSTALL_DESTINATION "${vaelib_package_folder}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/vaelib-config-version.cmake" COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)

set(vaelib_requires zlib)
set(vaelib_cflags)
if(VAELIB_OPENBLAS)
  string(APPEND vaelib_requires ", openblas")
  set(vaelib_cflags " -DVAELIB_CBLAS")
endif()
file(RELATIVE_PATH vaelib_prefix "${CMAKE_INSTALL_FULL_DATADIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
string(REGEX REPLACE "/$" "" vaelib_prefix "${vaelib_prefix}")
configure_file("${PROJECT_SOURCE_DIR}/cmake/vaelib.pc.in" "${PROJECT_BINARY_DIR}/vaelib.pc" @ONLY)

install(TARGETS vaelib EXPORT vaelib-targets INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT vaelib-targets NAMESPACE vaelib:: DESTINATION "${vaelib_package_folder}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/vaelib" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(FILES "${PROJECT_BINARY_DIR}/vaelib-config.cmake" "${PROJECT_BINARY_DIR}/vaelib-config-version.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/vaelib-openblas.cmake" DESTINATION "${vaelib_package_folder}")
install(FILES "${PROJECT_BINARY_DIR}/vaelib.pc" DESTINATION "${CMAKE_INSTALL_DATADIR}/pkgconfig")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/licenses/vaelib")
