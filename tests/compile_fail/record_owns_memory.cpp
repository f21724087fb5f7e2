// A record lives in the arena of the step, which runs no destructors.
// error: vaelib: a record lives in the arena, which runs no destructors
#include <vaelib/autodiff/operations.hpp>
#include <vaelib/backend/oracle.hpp>

using namespace vaelib;

#ifdef BAD
using Kept = std::vector<double>;
#else
using Kept = const double*;
#endif
void own_operation(Step<Oracle>& step, Var<double, Shape{3}> y, Kept kept) {
  step.record({y.node}, [=](Step<Oracle>& s) { s.gradient(y), (void)kept; });
}
