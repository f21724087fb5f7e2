#include <vaelib/xtensor.hpp>

int main() { return vaelib::to_xtensor(std::vector<float>{1, 2, 3, 4}, {2, 2})(1, 0) == 3 ? 0 : 1; }
