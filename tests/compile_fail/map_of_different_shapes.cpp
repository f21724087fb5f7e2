// Variables of one map have one shape.
// error: vaelib: the variables of one map have different shapes
#include <vaelib/autodiff/operations.hpp>
#include <vaelib/backend/oracle.hpp>

using namespace vaelib;

#ifdef BAD
constexpr Shape other{4};
#else
constexpr Shape other{3};
#endif
auto sum(Step<Oracle>& step, Var<double, Shape{3}> x, Var<double, other> y) { return add(step, x, y); }
