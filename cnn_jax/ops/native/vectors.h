// Vectors of LANES floats. Included once per width, after defining LANES; includers undefine vec, ints and bytes.

#define NAME(name) JOIN(name, LANES)
#define vec NAME(vec)
#define ints NAME(ints)
#define bytes NAME(bytes)
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

// Select by lane: `which` is all ones or zero.
INLINE vec NAME(choose)(ints which, vec yes, vec no) { return (vec)((which & (ints)yes) | (~which & (ints)no)); }

// The maximum of both; propagates a NaN in `value`.
INLINE vec NAME(at_least)(vec least, vec value) {
#if LANES == 16
  return (vec)_mm512_max_ps((__m512)least, (__m512)value);
#elif LANES == 8
  return (vec)_mm256_max_ps((__m256)least, (__m256)value);
#else
  return NAME(choose)(value < least, least, value);
#endif
}

// The maximum of four and its index, the first of equals; propagates NaN.
INLINE vec NAME(largest)(vec a, vec b, vec c, vec d, ints *which) {
#if LANES == 16 && MASKS
  const __mmask16 from_b = _mm512_cmp_ps_mask((__m512)b, (__m512)a, _CMP_GT_OQ);
  const __m512 ab = _mm512_max_ps((__m512)b, (__m512)a);  // maxps returns the second operand if either is a NaN
  const __mmask16 from_c = _mm512_cmp_ps_mask((__m512)c, ab, _CMP_GT_OQ);
  const __m512 abc = _mm512_max_ps((__m512)c, ab);
  const __mmask16 from_d = _mm512_cmp_ps_mask((__m512)d, abc, _CMP_GT_OQ);
  const __mmask16 none =
      _mm512_cmp_ps_mask((__m512)b, (__m512)c, _CMP_UNORD_Q) | _mm512_cmp_ps_mask((__m512)d, (__m512)d, _CMP_UNORD_Q);
  __m512i first = _mm512_maskz_set1_epi32(from_b, 1);
  first = _mm512_mask_mov_epi32(first, from_c, _mm512_set1_epi32(2));
  *which = (ints)_mm512_mask_mov_epi32(first, from_d, _mm512_set1_epi32(3));
  return (vec)_mm512_mask_mov_ps(_mm512_max_ps((__m512)d, abc), none, _mm512_set1_ps(__builtin_nanf("")));
#else
  const vec next[3] = {b, c, d};
  ints first = (ints){0};
  UNROLL(i, 3) {
    const ints wins = (next[i] > a) | (next[i] != next[i]);
    a = NAME(choose)(wins, next[i], a);
    first = (wins & (i + 1)) | (~wins & first);
  }
  *which = first;
  return a;
#endif
}
