# xtensor-blas, which ConanCenter does not have. This tree is a local-recipes-index:
#
#   conan remote add vaelib-ports <checkout>/ports/conan --type=local-recipes-index
#
# Run with Conan 2.34 and the release's archive (its sha256 is the one of other package collections, too), with the headers of
# xtensor 0.27.1 and Debian's OpenBLAS in place of the packages it requires; not run against ConanCenter.
from pathlib import Path

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy, get
from conan.tools.layout import basic_layout

required_conan_version = ">=2.0"


class XtensorBlasConan(ConanFile):
    name = "xtensor-blas"
    description = "BLAS and LAPACK for xtensor"
    license = "BSD-3-Clause"
    homepage = "https://github.com/xtensor-stack/xtensor-blas"
    topics = ("xtensor", "blas", "lapack", "linear-algebra", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    no_copy_source = True

    def layout(self):
        basic_layout(self, src_folder="src")

    def requirements(self):
        self.requires("xtensor/0.27.1", transitive_headers=True)
        self.requires("openblas/0.3.30", transitive_headers=True, transitive_libs=True, options={"build_lapack": True})

    def package_id(self):
        self.info.clear()

    def validate(self):
        check_min_cppstd(self, 20)

    def source(self):
        get(self, **self.conan_data["sources"][self.version], strip_root=True)

    def package(self):
        copy(self, "LICENSE", self.source_folder, Path(self.package_folder) / "licenses")
        for pattern in ("*.hpp", "*.h", "*.cxx", "*.tcc"):
            copy(self, pattern, Path(self.source_folder) / "include", Path(self.package_folder) / "include")

    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        self.cpp_info.set_property("cmake_file_name", "xtensor-blas")
        self.cpp_info.set_property("cmake_target_name", "xtensor-blas")
        self.cpp_info.set_property("pkg_config_name", "xtensor-blas")
