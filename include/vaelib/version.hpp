// The version of the library, and the name of its inline namespace.
//
// Two translation units of one program may be compiled for different processors (-march). Their inline functions then
// differ, and the linker would keep an arbitrary one; so the widest instruction set of a unit is part of every name.
#pragma once

#define VAELIB_VERSION_MAJOR 0
#define VAELIB_VERSION_MINOR 1
#define VAELIB_VERSION_PATCH 0
#define VAELIB_VERSION "0.1.0"

#if defined(__AVX512F__)
#define VAELIB_ABI v0_avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define VAELIB_ABI v0_avx2
#elif defined(__AVX__)
#define VAELIB_ABI v0_avx
#elif defined(__SSE4_1__)
#define VAELIB_ABI v0_sse4
#else
#define VAELIB_ABI v0
#endif
