// The few function attributes of the library: on the device, always inline, vectorised loop.
//
// [[gnu::cold]] stands before what runs once a program, a file or an epoch: compiled for size, it is compiled sooner.
#pragma once

/// A function that nvcc also compiles for the device; nothing elsewhere.
#if defined(__CUDACC__)
#define VAELIB_HD __host__ __device__
#else
#define VAELIB_HD
#endif

/// A small function that must vanish into its caller, so that it gets the caller's instruction set. Usable on the
/// device.
#if defined(__GNUC__)
#define VAELIB_INLINE VAELIB_HD inline __attribute__((always_inline))
#else
#define VAELIB_INLINE VAELIB_HD inline
#endif

/// After the parameters of a lambda that is given to vectorize(), or of one that such a lambda calls:
///   vectorize([&](auto lanes) VAELIB_LOOP { ... });
/// It and what it calls, functors of users included, is inlined. GCC goes on to what these call; Clang looks one call
/// deep only, so that large functors called by other functors should be VAELIB_INLINE, or they are right but slow.
#if defined(__GNUC__) && !defined(__CUDACC__)
#define VAELIB_LOOP __attribute__((always_inline, flatten))
#else
#define VAELIB_LOOP
#endif

/// Whether vectors of floats exist (GCC, Clang). Elsewhere, and under nvcc, the same code runs one float wide.
#if defined(__GNUC__) && !defined(__CUDACC__)
#define VAELIB_HAS_LANES 1
#else
#define VAELIB_HAS_LANES 0
#endif
