// What is wrong with a command line.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vaelib/core/error.hpp>

namespace program {

/// Exit code 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class T>
void refuse_unless(bool right, const char* flag, const T& value, const std::string& expected) {
  if (!right) throw UsageError(vaelib::text("--", flag, ' ', value, ": expected ", expected));
}
inline void one_of(const char* flag, const std::string& value, std::initializer_list<const char*> known) {
  std::string names;
  for (const char* name : known) {
    if (value == name) return;
    names += vaelib::text(names.empty() ? "" : ", ", name);
  }
  throw UsageError(vaelib::text("--", flag, ' ', value, ": expected one of ", names));
}

}  // namespace program
