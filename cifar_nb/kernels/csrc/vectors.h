// Vectors of 8 or 16 numbers, in float32 or bf16, for the kernels beside this file.
// [vectors]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <torch/library.h>
#include <cstring>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#define HALVES8 (H) _mm256_cvtneps_pbh((__m256)v)
#define HALVES16 (H) _mm512_cvtneps_pbh((__m512)v)
#define PAIR8 \
  (U) _mm256_permutexvar_epi16( \
      _mm256_set_epi16(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0), \
      (__m256i)_mm256_cvtne2ps_pbh((__m256)b, (__m256)a))
#define PAIR16 \
  (U) _mm512_permutexvar_epi16( \
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, \
                       21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0), \
      (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a))
#else
#define HALVES8 __builtin_convertvector(rounded(v) >> 16, H)
#define HALVES16 HALVES8
#define PAIR8 rounded(a) >> 16 | (rounded(b) & 0xffff0000u)
#define PAIR16 PAIR8
#endif
namespace {
using at::BFloat16;
using at::Tensor;
template <int W>
struct Vec;
#define VECTOR(W) \
  template <> \
  struct Vec<W> { \
    typedef float F __attribute__((vector_size(4 * W))); \
    typedef uint32_t U __attribute__((vector_size(4 * W))); \
    typedef int32_t I __attribute__((vector_size(4 * W))); \
    typedef uint16_t H __attribute__((vector_size(2 * W))); \
    typedef uint8_t B __attribute__((vector_size(W))); \
    static F load(const float* p) { \
      F v; \
      memcpy(&v, p, sizeof v); \
      return v; \
    } \
    static F load(const BFloat16* p) { \
      H h; \
      memcpy(&h, p, sizeof h); \
      return (F)(__builtin_convertvector(h, U) << 16); \
    } \
    static I load(const uint8_t* p) { \
      B b; \
      memcpy(&b, p, sizeof b); \
      return __builtin_convertvector(b, I); \
    } \
    static U rounded(F v) { \
      U u = (U)v; \
      return u + 0x7fffu + ((u >> 16) & 1u); \
    } \
    static H halves(F v) { return HALVES##W; } \
    static void store(float* p, F v) { memcpy(p, &v, sizeof v); } \
    static void store(BFloat16* p, F v) { \
      H h = halves(v); \
      memcpy(p, &h, sizeof h); \
    } \
    static void store(uint8_t* p, I v) { \
      B b = __builtin_convertvector(v, B); \
      memcpy(p, &b, sizeof b); \
    } \
    static U pair(const BFloat16*, F a, F b) { return PAIR##W; } \
    static U pair(const float*, F a, F) { return (U)a; } \
  };
VECTOR(8) VECTOR(16)
