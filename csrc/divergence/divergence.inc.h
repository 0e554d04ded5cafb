/* How far one head's softmax is from another's, of logits that both have kept.
 *
 * With p the student's probabilities, q the teacher's, d = log p - log q and b the share of the teacher in
 * what lies between them,
 *     b = 0      KL(q | p) = sum q (e^d - 1 - d)
 *     b = 1      KL(p | q) = sum p (e^-d - 1 + d)
 *     else       b KL(q | m) + (1 - b) KL(p | m),  m = b q + (1 - b) p,
 *                KL(q | m) = sum q (u - log(1 + u)),  u = (1 - b) (e^d - 1),
 *                KL(p | m) = sum p (v - log(1 + v)),  v = b (e^-d - 1).
 * The sum of p - q, which is 0, has been put in, so that no term is negative: heads that are nearly
 * equal keep their digits.
 */

enum { LL_FORWARD, LL_REVERSE, LL_BETWEEN };

static inline int kind_of(double beta)
{
    return beta == 0 ? LL_FORWARD : beta == 1 ? LL_REVERSE : LL_BETWEEN;
}

/* What is known of a row: of each head its largest logit, and log1p of the sum of exp of the others;
 * b and 1 - b; of the derivatives what they are multiplied by, and the mean of l, see `slope`. */
typedef struct {
    real student_max, student_norm, teacher_max, teacher_norm;
    real beta, rest, factor, mean;
} divergence_row;

/* Of heads whose states are finished. */
static divergence_row row_of_pair(const ll_job *student, const ll_job *teacher, double beta,
                                  ptrdiff_t i)
{
    const ll_state *s = &student->output.state, *t = &teacher->output.state;

    return (divergence_row){ field(s, LL_MAX)[i], field(s, LL_REST)[i],
                             field(t, LL_MAX)[i], field(t, LL_REST)[i],
                             (real)beta, (real)(1 - beta), 0, 0 };
}

/* Probabilities of the same classes, and how their logarithms differ: NaN where both are 0. */
typedef struct {
    vec p, q, d;
} vec_pair;

/* `count` logits, -inf behind them. */
static inline vec load_logits(const real *z, ptrdiff_t count)
{
    real part[LL_LANES];

    if (count >= LL_LANES)
        return vload(z);
    memcpy(part, z, (size_t)count * sizeof(real));
    mask_tail(part, count);
    return vload(part);
}

static inline vec_pair load_pair(const divergence_row *row, const real *student,
                                 const real *teacher, ptrdiff_t count)
{
    const vec norm = vset(row->student_norm - row->teacher_norm);
    vec s = vsub(load_logits(student, count), vset(row->student_max));
    vec t = vsub(load_logits(teacher, count), vset(row->teacher_max));

    return (vec_pair){ vexp_nonpositive(vsub(s, vset(row->student_norm))),
                       vexp_nonpositive(vsub(t, vset(row->teacher_norm))),
                       vsub(vsub(s, t), norm) };
}

/* Where exp_curve holds. */
static inline mask is_near(vec d) { return vlt(vabs(d), vset(R(0.34))); }

/* a (e^d - 1 - d), where a e^d = b. */
static inline vec exp_gap(vec a, vec b, vec d)
{
    vec near = vmul(a, vmul(vmul(d, d), exp_curve(d)));
    return vselect(is_near(d), near, vsub(vsub(b, a), vmul_zero(a, d)));
}

/* What lies between the ends: u = a (e^d - 1) and 1 + u = a e^d + (1 - a), each with its digits. */
typedef struct {
    vec u, whole;
} vec_share;

static inline vec_share share_of(vec a, vec rest, vec d)
{
#if LL_REAL == 32
    const vec highest = vset(R(80.0)); /* so that nothing overflows */
#else
    const vec highest = vset(R(700.0));
#endif
    vec power = vexp(vmin(highest, d)), near = vfma(vmul(d, d), exp_curve(d), d);
    vec less = vselect(is_near(d), near, vsub(power, vset(1)));
    return (vec_share){ vmul(a, less), vfma(a, power, rest) };
}

/* Where log_curve holds. */
static inline mask is_small(vec u) { return vlt(vabs(u), vset(R(0.28))); }

/* u - log(1 + u), for such. */
static inline vec small_gap(vec u)
{
    vec h = vmul(vmul(u, vset(R(0.5))), u), s = vdiv(u, vadd(vset(2), u)), z = vmul(s, s);
    return vnfma(s, vfma(z, log_curve(z), h), h);
}

/* a (u - log(1 + u)), where a u = b. */
static inline vec log_gap(vec a, vec b, vec_share of)
{
    vec far = vsub(b, vmul_zero(a, vlog(of.whole)));
    return vselect(is_small(of.u), vmul(a, small_gap(of.u)), far);
}

static inline vec log_of(vec_share of)
{
    return vselect(is_small(of.u), vsub(of.u, small_gap(of.u)), vlog(of.whole));
}

/* ---- sums ---------------------------------------------------------------------------------- */

/* Add the terms of `count` classes of a row to KL(q | m), KL(p | m) and the mean of l by p, see
 * `slope`, which are `stride` apart. The mean is KL(p | m) but for rounding: whatever all d are off by,
 * as the norms' is, derivatives do not see. */
LL_TEMPLATE void add_terms(const int which, const divergence_row *row, const real *student,
                           const real *teacher, ptrdiff_t count, double *sums, ptrdiff_t stride)
{
    const vec b = vset(row->beta), rest = vset(row->rest);
    vec of_teacher = vset(0), of_student = vset(0), mean = vset(0);

    for (ptrdiff_t c = 0; c < count; c += LL_LANES) {
        vec_pair at = load_pair(row, student + c, teacher + c, count - c);
        vec p = at.p, q = at.q, d = at.d, back = vsub(vset(0), d);
        if (which == LL_FORWARD)
            of_teacher = vadd(of_teacher, exp_gap(q, p, d));
        else if (which == LL_REVERSE) {
            of_student = vadd(of_student, exp_gap(p, q, back));
            mean = vadd(mean, vmul_zero(p, d));
        } else {
            vec_share u = share_of(rest, b, d), v = share_of(b, rest, back);
            of_teacher = vadd(of_teacher, log_gap(q, vmul(rest, vsub(p, q)), u));
            of_student = vadd(of_student, log_gap(p, vmul(b, vsub(q, p)), v));
            mean = vsub(mean, vmul_zero(p, log_of(v)));
        }
    }
    sums[0] += (double)vsum(of_teacher);
    sums[stride] += (double)vsum(of_student);
    sums[2 * stride] += (double)vsum(mean);
}

static void divergence(const ll_job *student, const ll_job *teacher, double beta, double *sums,
                       ptrdiff_t stride)
{
    const int kind = kind_of(beta);

    for (ptrdiff_t c = student->first; c < student->last; c += LL_BLOCK) {
        const ptrdiff_t count = least(LL_BLOCK, student->last - c);
        const real *s = kept_tile(student, c), *t = kept_tile(teacher, c);

        for (ptrdiff_t i = 0; i < student->rows; i++) {
            divergence_row row = row_of_pair(student, teacher, beta, i);
            if (kind == LL_FORWARD)
                add_terms(LL_FORWARD, &row, s, t, count, sums + i, stride);
            else if (kind == LL_REVERSE)
                add_terms(LL_REVERSE, &row, s, t, count, sums + i, stride);
            else
                add_terms(LL_BETWEEN, &row, s, t, count, sums + i, stride);
            s += tile_row(student->n);
            t += tile_row(student->n);
        }
    }
}

/* ---- derivatives by the student's logits --------------------------------------------------- */

/* p - q; or p (l - sum p l) with l = d, or (1 - b) p (l - sum p l) with l = log(p / m). */
LL_TEMPLATE vec slope(const int which, const divergence_row *row, vec_pair at)
{
    if (which == LL_FORWARD) {
        vec near = vmul(at.q, vfma(vmul(at.d, at.d), exp_curve(at.d), at.d));
        return vselect(is_near(at.d), near, vsub(at.p, at.q));
    }
    if (which == LL_REVERSE)
        return vmul_zero(at.p, vsub(at.d, vset(row->mean)));
    vec_share v = share_of(vset(row->beta), vset(row->rest), vsub(vset(0), at.d));
    vec l = vsub(vset(-row->mean), log_of(v));
    return vmul(vset(row->rest), vmul_zero(at.p, l));
}

LL_TEMPLATE void find_slopes(const int which, const divergence_row *row, const real *student,
                             const real *teacher, ptrdiff_t count, real *slopes)
{
    for (ptrdiff_t c = 0; c < count; c += LL_LANES) {
        vec_pair at = load_pair(row, student + c, teacher + c, count - c);
        vstore(slopes + c, vmul(vset(row->factor), slope(which, row, at)));
    }
}

/* Of `count` classes, and of others up to a whole vector 0. */
static void divergence_slopes(int kind, const divergence_row *row, const real *student,
                              const real *teacher, ptrdiff_t count, real *slopes)
{
    if (kind == LL_FORWARD)
        find_slopes(LL_FORWARD, row, student, teacher, count, slopes);
    else if (kind == LL_REVERSE)
        find_slopes(LL_REVERSE, row, student, teacher, count, slopes);
    else
        find_slopes(LL_BETWEEN, row, student, teacher, count, slopes);
}
