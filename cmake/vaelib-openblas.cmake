# Makes the target OpenBLAS::OpenBLAS (with cblas.h in its include folders), or none where OpenBLAS is not found. Conan and
# newer OpenBLAS define the target themselves; Debian's package file sets variables only; vcpkg's and others have pkg-config.
if(NOT TARGET OpenBLAS::OpenBLAS)
  find_package(OpenBLAS CONFIG QUIET)
endif()

if(NOT TARGET OpenBLAS::OpenBLAS)
  set(vaelib_openblas_include "${OpenBLAS_INCLUDE_DIRS}")
  set(vaelib_openblas_libraries "${OpenBLAS_LIBRARIES}")

  if(NOT vaelib_openblas_libraries)
    find_package(PkgConfig QUIET)
    if(PkgConfig_FOUND)
      pkg_check_modules(vaelib_openblas_pc QUIET openblas)
      set(vaelib_openblas_include "${vaelib_openblas_pc_INCLUDE_DIRS}")
      set(vaelib_openblas_libraries "${vaelib_openblas_pc_LINK_LIBRARIES}")
    endif()
  endif()

  if(NOT vaelib_openblas_libraries)
    set(BLA_VENDOR OpenBLAS)
    find_package(BLAS QUIET)
    find_path(vaelib_cblas_folder cblas.h PATH_SUFFIXES openblas)
    mark_as_advanced(vaelib_cblas_folder)
    if(BLAS_FOUND AND vaelib_cblas_folder)
      set(vaelib_openblas_include "${vaelib_cblas_folder}")
      set(vaelib_openblas_libraries "${BLAS_LIBRARIES}")
    endif()
    unset(BLA_VENDOR)
  endif()

  if(vaelib_openblas_libraries)
    add_library(OpenBLAS::OpenBLAS INTERFACE IMPORTED GLOBAL)
    set_target_properties(OpenBLAS::OpenBLAS PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${vaelib_openblas_include}"
                                                        INTERFACE_LINK_LIBRARIES "${vaelib_openblas_libraries}")
  endif()
endif()
