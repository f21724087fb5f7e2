#include <xtensor-blas/xlinalg.hpp>
#include <xtensor/containers/xarray.hpp>

int main() {
  const xt::xarray<double> a = {{1, 2}, {3, 4}}, b = {5, 6};
  return xt::linalg::dot(a, b)(1) == 39 && xt::linalg::det(a) < -1.9 ? 0 : 1;
}
