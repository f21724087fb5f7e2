# Headers to include/, the package to share/cmake/vaelib. Nothing in it depends on the processor or on the prefix, so the
# installed tree may be moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(vaelib_package_folder "${CMAKE_INSTALL_DATADIR}/cmake/vaelib")
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/vaelib-config.cmake.in" "${PROJECT_BINARY_DIR}/vaelib-config.cmake"
                              INSTALL_DESTINATION "${vaelib_package_folder}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/vaelib-config-version.cmake" COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)

install(TARGETS vaelib EXPORT vaelib-targets)
install(EXPORT vaelib-targets NAMESPACE vaelib:: DESTINATION "${vaelib_package_folder}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/vaelib" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(FILES "${PROJECT_BINARY_DIR}/vaelib-config.cmake" "${PROJECT_BINARY_DIR}/vaelib-config-version.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/vaelib-openblas.cmake" DESTINATION "${vaelib_package_folder}")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/licenses/vaelib")
