/* exp, log, log(1 + r) and tanh, written once in the vocabulary.
 *
 * Every function is the same three moves: reduce the argument to a short interval, without
 * losing a bit that matters; a minimax polynomial there; put the power of two back. There are no
 * branches and no tables, so all lanes of all instruction sets do the same operations in the same
 * order and return the same bits. They rely on round-to-nearest, on denormals being kept, and on
 * -ffp-contract=off.
 *
 * The coefficients are our own (Remez exchange on the relative error of the whole function, at 50
 * digits; rounded to the working precision one by one, lowest power first, and the rest fitted
 * again after each). Errors in brackets are of the polynomial alone, relative to the result.
 *
 * Largest error found, in units in the last place of the true result (of 2^-149 or 2^-1074 where
 * that is denormal), against a more precise library function:
 *             float32, every argument     float64, millions of random and hard arguments
 *   vexp      0.892                       0.891
 *   vlog      0.840                       0.848
 *   vlog1p    0.840                       0.840
 *   vtanh     1.240                       1.286
 */
#if LL_REAL == 32
#define REAL_LARGEST R(0x1.fffffep127)
#else
#define REAL_LARGEST R(0x1.fffffffffffffp1023)
#endif

/* ---- exp ----------------------------------------------------------------------------------- */

/* x = n ln 2 + r with |r| <= ln(2)/2; returns r.
 * Adding 1.5 * 2^(digits - 1) leaves no room for a fraction, so the fused multiply-add itself
 * rounds x / ln 2 to the nearest integer. ln 2 comes in two pieces. The first step is exact:
 * the product is fused, and what it leaves of x is small enough to fit. The second rounds once. */
static inline vec exp_reduce(vec x, vec *n)
{
#if LL_REAL == 32
    const vec to_integer = vset(R(0x1.8p23));
    const vec one_by_ln2 = vset(R(0x1.715476p+0));
    const vec ln2 = vset(R(0x1.62e43p-1)), ln2_rest = vset(R(-0x1.05c61p-29));
#else
    const vec to_integer = vset(R(0x1.8p52));
    const vec one_by_ln2 = vset(R(0x1.71547652b82fep+0));
    const vec ln2 = vset(R(0x1.62e42fefa39efp-1)), ln2_rest = vset(R(0x1.abc9e3b39803fp-56));
#endif
    *n = vsub(vfma(x, one_by_ln2, to_integer), to_integer);
    return vnfma(*n, ln2_rest, vnfma(*n, ln2, x));
}

/* p with e^r = 1 + r + r^2 p, for |r| <= ln(2)/2.
 * float32: degree 4 (2^-28.2). float64: degree 9 (2^-57.9). */
static inline vec exp_curve(vec r)
{
#if LL_REAL == 32
    vec p = vset(R(0x1.6a3d14p-10));
    p = vfma(p, r, vset(R(0x1.123856p-7)));
    p = vfma(p, r, vset(R(0x1.5558bep-5)));
    p = vfma(p, r, vset(R(0x1.555494p-3)));
    p = vfma(p, r, vset(R(0x1.fffffcp-2)));
#else
    vec p = vset(R(0x1.ad9eebfcae1d2p-26));
    p = vfma(p, r, vset(R(0x1.28ad4c1212eb3p-22)));
    p = vfma(p, r, vset(R(0x1.71df0cc43b5c7p-19)));
    p = vfma(p, r, vset(R(0x1.a0199a21c4fa2p-16)));
    p = vfma(p, r, vset(R(0x1.a01a01384f5b7p-13)));
    p = vfma(p, r, vset(R(0x1.6c16c184319cep-10)));
    p = vfma(p, r, vset(R(0x1.1111111124541p-7)));
    p = vfma(p, r, vset(R(0x1.55555555507bap-5)));
    p = vfma(p, r, vset(R(0x1.555555555550dp-3)));
    p = vfma(p, r, vset(R(0x1.000000000000ap-1)));
#endif
    return p;
}

/* m and n with e^x = 2^n m, 0.7 < m < 1.42; NaN passes through, as the second argument of vmax
 * does. Below the bound the result has long become 0.
 * The leading 1 is added last, in the only rounding at the scale of the result; those of p, and
 * of r, arrive multiplied by |r| <= 0.35. 11 operations in float32, 16 in float64. */
static inline vec exp_parts(vec x, vec *n)
{
#if LL_REAL == 32
    const vec lowest = vset(R(-104.0));
#else
    const vec lowest = vset(R(-746.0));
#endif
    const vec one = vset(R(1.0));
    vec r = exp_reduce(vmax(lowest, x), n);
    return vfma(vfma(exp_curve(r), r, one), r, one);
}

/* e^x for x <= 0, as softmax meets it once the maximum is taken off. */
static inline vec vexp_nonpositive(vec x)
{
    vec n, m = exp_parts(x, &n);
    return vscale_down(m, n);
}

/* e^x for every x, with the same bits. At the bound, where vscale overflows to inf, n is still
 * within its range. */
static inline vec vexp(vec x)
{
#if LL_REAL == 32
    const vec highest = vset(R(89.0));
#else
    const vec highest = vset(R(710.0));
#endif
    vec n, m = exp_parts(vmin(highest, x), &n);
    return vscale(m, n);
}

/* ---- tanh ---------------------------------------------------------------------------------- */

/* |x| = n ln(2)/2 + r with 0 <= r <= ln(2)/2, and w = tanh r = r + r z P(z), z = r^2. As
 * tanh(n ln(2)/2) = (2^n - 1) / (2^n + 1), the addition theorem gives
 *     tanh |x| = ((2^n - 1) + (2^n + 1) w) / ((2^n + 1) + (2^n - 1) w).
 * A base is taken out of the quotient, 0 for n = 0, 1/2 for n = 1, 1 above, so that the errors of
 * its three roundings count for little. What stays above the line is (g - h) + (g + h) w, with
 * g = 2^n (1 - base) and h = 1 + base. For n = 0 the quotient is w itself, to the last bit; beyond
 * the bound the sum is 1. float32: P of degree 3 (2^-31.1). float64: degree 7 (2^-56.8). */
static inline vec vtanh(vec x)
{
#if LL_REAL == 32
    const vec saturated = vset(R(10.0)), one_by_step = vset(R(0x1.715476p+1));
    const vec step = vset(R(0x1.62e43p-2)), step_rest = vset(R(-0x1.05c61p-30));
#else
    const vec saturated = vset(R(20.0)), one_by_step = vset(R(0x1.71547652b82fep+1));
    const vec step = vset(R(0x1.62e42fefa39efp-2));
    const vec step_rest = vset(R(0x1.abc9e3b39803fp-57));
#endif
    const vec one = vset(R(1.0));
    vec a = vmin(saturated, vabs(x));
    vec n = vround(vfma(a, one_by_step, vset(R(-0.5))));
    vec r = vnfma(n, step_rest, vnfma(n, step, a));
    vec z = vmul(r, r);
#if LL_REAL == 32
    vec p = vset(R(0x1.3f135cp-6));
    p = vfma(p, z, vset(R(-0x1.b830aep-5)));
    p = vfma(p, z, vset(R(0x1.110c4cp-3)));
    p = vfma(p, z, vset(R(-0x1.55554ep-2)));
#else
    vec p = vset(R(0x1.f3c4363b8cabbp-12));
    p = vfma(p, z, vset(R(-0x1.7747fbdddd64fp-10)));
    p = vfma(p, z, vset(R(0x1.d67442c1ca708p-9)));
    p = vfma(p, z, vset(R(-0x1.226c912d43f63p-7)));
    p = vfma(p, z, vset(R(0x1.664f400fda6c6p-6)));
    p = vfma(p, z, vset(R(-0x1.ba1ba1a1fc8fdp-5)));
    p = vfma(p, z, vset(R(0x1.111111110062dp-3)));
    p = vfma(p, z, vset(R(-0x1.55555555554d7p-2)));
#endif
    vec w = vfma(vmul(r, z), p, r);
    vec power = vscale(one, n);
    vec base = vmin(one, vmul(n, vset(R(0.5))));
    vec g = vmul(power, vsub(one, base)), h = vadd(one, base);
    vec over = vfma(vadd(g, h), w, vsub(g, h));
    vec under = vfma(vsub(power, one), w, vadd(power, one));
    return vcopysign(vadd(base, vdiv(over, under)), x);
}

/* ---- log and log1p ------------------------------------------------------------------------- */

/* The k for which u = 2^k m with sqrt(1/2) <= m < sqrt(2): so k = 0 all around u = 1. */
static inline vec log_exponent(vec u)
{
    return vadd(vexponent(vmul(u, vset(R(0x1.6a09e6p-1)))), vset(R(1.0)));
}

/* P with log(1 + f) = f - h + s (h + s^2 P(s^2)), s = f / (2 + f) and h = f^2 / 2, for
 * sqrt(1/2) <= 1 + f <= sqrt(2); z = s^2. float32: degree 2 (2^-30.2). float64: degree 6 (2^-59.5). */
static inline vec log_curve(vec z)
{
#if LL_REAL == 32
    vec p = vset(R(0x1.31e082p-2));
    p = vfma(p, z, vset(R(0x1.995ed6p-2)));
    p = vfma(p, z, vset(R(0x1.55557ap-1)));
#else
    vec p = vset(R(0x1.2f03b368bf25bp-3));
    p = vfma(p, z, vset(R(0x1.39a1e97c22b02p-3)));
    p = vfma(p, z, vset(R(0x1.74663ce65aa40p-3)));
    p = vfma(p, z, vset(R(0x1.c71c521472c6cp-3)));
    p = vfma(p, z, vset(R(0x1.24924941e12fep-2)));
    p = vfma(p, z, vset(R(0x1.999999997ff1bp-2)));
    p = vfma(p, z, vset(R(0x1.5555555555592p-1)));
#endif
    return p;
}

/* k ln 2 + log(1 + f) + rest, for sqrt(1/2) <= 1 + f <= sqrt(2) and a tiny rest.
 * log(1 + f) is 2 atanh(s): the leading f of log_curve's formula is exact and everything after it is
 * small. The larger piece of ln 2 ends in enough zero bits for its product with k to be exact, and what
 * rounding takes from that product + f is added back: only the last addition rounds at the scale of
 * the result. */
static inline vec log_sum(vec k, vec f, vec rest)
{
#if LL_REAL == 32
    const vec ln2 = vset(R(0x1.62e4p-1)), ln2_rest = vset(R(0x1.7f7d1cp-20));
#else
    const vec ln2 = vset(R(0x1.62e42fefa38p-1)), ln2_rest = vset(R(0x1.ef35793c7673p-45));
#endif
    vec s = vdiv(f, vadd(vset(R(2.0)), f));
    vec z = vmul(s, s);
    vec h = vmul(vmul(f, vset(R(0.5))), f);
    vec small = vsub(vfma(s, vfma(z, log_curve(z), h), vfma(k, ln2_rest, rest)), h);
    vec whole = vmul(k, ln2);
    vec sum = vadd(whole, f);
    return vadd(sum, vadd(vadd(vsub(whole, sum), f), small));
}

/* log x. The clamp leaves positive numbers alone and gives the others something harmless to work
 * on; what they should return is put in at the end. Denormals are scaled up first. */
static inline vec vlog(vec x)
{
#if LL_REAL == 32
    const vec smallest = vset(R(0x1p-149)), tiny = vset(R(0x1p-100));
#else
    const vec smallest = vset(R(0x1p-1074)), tiny = vset(R(0x1p-900));
#endif
    const vec zero = vset(R(0.0)), one = vset(R(1.0)), up = vset(R(100.0));
    vec u = vmin(vmax(x, smallest), vset(REAL_LARGEST));
    vec lifted = vselect(vlt(u, tiny), up, zero);
    vec v = vscale(u, lifted);
    vec k = log_exponent(v);
    vec f = vsub(vscale(v, vsub(zero, k)), one);
    vec log_u = log_sum(vsub(k, lifted), f, zero);

    vec negative_or_inf = vselect(vlt(x, zero), vset((real)NAN), x);
    vec special = vselect(veq(x, zero), vset((real)-INFINITY), negative_or_inf);
    return vselect(veq(u, x), log_u, special);
}

/* log(1 + r) for r >= 0 (inf and NaN come back as they are).
 * 1 + r is rounded to u; what the rounding lost is known exactly and rejoins f. For k = 0 that
 * restores f = r to the bit, so that small r keep all their digits; otherwise what does not fit
 * into f is a rest d, worth d / (1 + f), here d (1 - f). */
static inline vec vlog1p(vec r)
{
    const vec zero = vset(R(0.0)), one = vset(R(1.0));
    vec x = vmin(r, vset(REAL_LARGEST));
    vec u = vadd(x, one);
    vec lost = vsub(vmin(x, one), vsub(u, vmax(x, one)));
    vec k = log_exponent(u);
    vec down = vsub(zero, k);
    vec f_of_u = vsub(vscale(u, down), one);
    lost = vscale(lost, down);
    vec f = vadd(f_of_u, lost);
    vec d = vadd(vsub(f_of_u, f), lost);
    return vselect(veq(x, r), log_sum(k, f, vnfma(d, f, d)), r);
}
