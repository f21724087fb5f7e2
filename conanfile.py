import re
from pathlib import Path

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy, load
from conan.tools.layout import basic_layout

required_conan_version = ">=2.0"


class VaelibConan(ConanFile):
    name = "vaelib"
    description = "Variational autoencoders in C++20, header-only"
    license = "MIT"
    topics = ("variational-autoencoder", "deep-learning", "generative-model", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"with_openblas": [True, False], "with_xtensor": [True, False]}  # xtensor: for vaelib/xtensor.hpp
    default_options = {"with_openblas": False, "with_xtensor": False}
    exports_sources = "include/*", "LICENSE"
    no_copy_source = True

    def set_version(self):
        header = load(self, Path(self.recipe_folder) / "include" / "vaelib" / "version.hpp")
        self.version = re.search(r'#define VAELIB_VERSION "(.+)"', header)[1]

    def layout(self):
        basic_layout(self, src_folder=".")

    def requirements(self):
        self.requires("zlib/[>=1.2.11 <2]", transitive_headers=True, transitive_libs=True)
        if self.options.with_openblas:
            self.requires("openblas/[>=0.3.20 <1]", transitive_headers=True, transitive_libs=True)
        if self.options.with_xtensor:
            self.requires("xtensor/[>=0.24.3 <1]", transitive_headers=True)
            self.requires("xtensor-blas/[>=0.20 <1]", transitive_headers=True, transitive_libs=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def package(self):
        copy(self, "LICENSE", self.source_folder, Path(self.package_folder) / "licenses")
        copy(self, "*.hpp", Path(self.source_folder) / "include", Path(self.package_folder) / "include")

    def package_id(self):
        self.info.clear()

    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        self.cpp_info.set_property("cmake_file_name", "vaelib")
        self.cpp_info.set_property("cmake_target_name", "vaelib::vaelib")
        if self.options.get_safe("with_openblas"):
            self.cpp_info.defines = ["VAELIB_CBLAS"]
        if self.settings.get_safe("os") in ("Linux", "FreeBSD"):
            self.cpp_info.system_libs = ["pthread"]
        # What a profile takes from the system by [platform_requires] is no package that would name its library.
        of_system = [d.ref.name for d in self.dependencies.values() if d.recipe == "Platform"]
        self.cpp_info.system_libs += [lib for name, lib in (("zlib", "z"), ("openblas", "openblas")) if name in of_system]
