#include <vaelib/vae.hpp>

#include <cstdio>

int main() {
  std::printf("vaelib %s\n", VAELIB_VERSION);
  return 0;
}
