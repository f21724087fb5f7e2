// Plain and compressed.
#include <vaelib/io/idx.hpp>

#include "harness.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::read([&] {
    const vaelib::IdxArray array = vaelib::read_idx(vaelib::InputFile("input", fuzz::bytes(data, size)));
    std::uint64_t count = 1;
    for (const std::uint32_t extent : array.shape) count *= extent;
    if (count != array.values.size()) __builtin_trap();
  });
}

#ifdef VAELIB_FUZZING
/// What is compressed is inflated, mutated and compressed again.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  if (size < 2 || data[0] != 0x1F || data[1] != 0x8B || seed % 4 == 0) return LLVMFuzzerMutate(data, size, most);
  fuzz::Input input(data, size, most);
  constexpr int gzip = 16 + 9;  // with the smallest window
  std::string plain(4096, '\0');
  z_stream stream{};
  if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) return size;
  stream.next_in = data, stream.avail_in = static_cast<uInt>(size);
  stream.next_out = reinterpret_cast<Bytef*>(plain.data()), stream.avail_out = static_cast<uInt>(plain.size());
  inflate(&stream, Z_FINISH);
  plain.resize(plain.size() - stream.avail_out);
  inflateEnd(&stream);
  plain = fuzz::Input::mutated(plain, plain.size() + 32);
  stream = {};
  if (deflateInit2(&stream, static_cast<int>(seed % 2), Z_DEFLATED, gzip, 1, Z_DEFAULT_STRATEGY) != Z_OK) return size;
  input.content.assign(deflateBound(&stream, static_cast<uLong>(plain.size())), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(plain.data()), stream.avail_in = static_cast<uInt>(plain.size());
  stream.next_out = reinterpret_cast<Bytef*>(input.content.data()),
  stream.avail_out = static_cast<uInt>(input.content.size());
  deflate(&stream, Z_FINISH);
  input.content.resize(input.content.size() - stream.avail_out);
  deflateEnd(&stream);
  return input.put();
}
#endif
