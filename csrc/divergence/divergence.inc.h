/* How far one head's softmax is from another's, of logits that both have kept.
 *
 * With p the student's probabilities, q the teacher's, d = log p - log q and b the share of the teacher in
 * what lies between them,
 *     b = 0      KL(q | p) = sum q (e^d - 1 - d)
 *     b = 1      KL(p | q) = sum p (e^-d - 1 + d)
 *     else       b KL(q | m) + (1 - b) KL(p | m),  m = b q + (1 - b) p,
 *                KL(q | m) = sum q (u - log(1 + u)),  u = (1 - b) (e^d - 1),
 *                KL(p | m) = sum p (v - log(1 + v)),  v = b (e^-d - 1).
 * What the sums over p and q - 1 leave is put into every term, so that none is negative and heads
 * that are nearly equal keep their digits. All of it is in double: the kernels of doubles do it for
 * both precisions.
 */

enum { LL_FORWARD, LL_REVERSE, LL_BETWEEN };

/* What is known of a row: of each head its largest logit, and log1p of the sum of exp of the others;
 * of the derivatives what they are multiplied by, and KL(p | m). */
typedef struct {
    double student_max, student_norm, teacher_max, teacher_norm;
    double beta, factor, mean;
} divergence_row;

/* Add the terms of `count` classes of a row to KL(q | m) and KL(p | m), which are `stride` apart; the
 * logits are floats if `narrow`. */
#define LL_DIVERGENCE LL_JOIN(ll_divergence, LL_ISA)
void LL_DIVERGENCE(const divergence_row *row, const void *student, const void *teacher,
                   ptrdiff_t count, int narrow, double *sums, ptrdiff_t stride);

/* Derivatives by the student's logits, of the same kind as these. */
#define LL_DIVERGENCE_SLOPES LL_JOIN(ll_divergence_slopes, LL_ISA)
void LL_DIVERGENCE_SLOPES(const divergence_row *row, const void *student, const void *teacher,
                          ptrdiff_t count, int narrow, void *slopes);

#if LL_REAL == 64

/* `count` logits, -inf behind them. */
static inline vec load_logits(const void *z, ptrdiff_t first, ptrdiff_t count, int narrow)
{
    double part[LL_LANES];

    if (!narrow && count >= LL_LANES)
        return vload((const double *)z + first);
    if (count < LL_LANES)
        vstore(part, vset(-LL_INF));
    for (ptrdiff_t i = 0; i < least(count, LL_LANES); i++)
        part[i] = narrow ? (double)((const float *)z)[first + i] : ((const double *)z)[first + i];
    return vload(part);
}

/* Probabilities of the same classes, and how their logarithms differ: NaN where both are 0. */
typedef struct {
    vec p, q, d;
} vec_pair;

static inline vec_pair load_pair(const divergence_row *row, const void *student,
                                 const void *teacher, ptrdiff_t first, ptrdiff_t count, int narrow)
{
    vec s = load_logits(student, first, count, narrow);
    vec t = load_logits(teacher, first, count, narrow);
    s = vsub(vsub(s, vset(row->student_max)), vset(row->student_norm));
    t = vsub(vsub(t, vset(row->teacher_max)), vset(row->teacher_norm));
    return (vec_pair){ vexp_nonpositive(s), vexp_nonpositive(t), vsub(s, t) };
}

/* Where exp_curve holds. */
static inline mask is_near(vec d) { return vlt(vabs(d), vset(0.34)); }

/* e^d - 1, without overflow. */
static inline vec expm1_of(vec d)
{
    vec far = vsub(vexp(vmin(vset(700.0), d)), vset(1.0));
    return vselect(is_near(d), vfma(vmul(d, d), exp_curve(d), d), far);
}

/* log(1 + u), for u > -1. */
static inline vec log1p_of(vec u)
{
    const vec zero = vset(0), one = vset(1.0);
    mask below = vlt(u, zero);
    vec log = vlog1p(vselect(below, vdiv(vsub(zero, u), vadd(one, u)), u));
    return vselect(below, vsub(zero, log), log);
}

/* a (e^d - 1 - d), where a e^d = b. */
static inline vec exp_gap(vec a, vec b, vec d)
{
    vec near = vmul(a, vmul(vmul(d, d), exp_curve(d)));
    return vselect(is_near(d), near, vsub(vsub(b, a), vmul_zero(a, d)));
}

/* a (u - log(1 + u)), where a u = b. */
static inline vec log_gap(vec a, vec b, vec u)
{
    vec h = vmul(vmul(u, vset(0.5)), u), s = vdiv(u, vadd(vset(2.0), u));
    vec near = vmul(a, vnfma(s, vfma(vmul(s, s), log_curve(vmul(s, s)), h), h));
    return vselect(vlt(vabs(u), vset(0.28)), near, vsub(b, vmul_zero(a, log1p_of(u))));
}

LL_TEMPLATE void add_terms(const int which, const divergence_row *row, const void *student,
                           const void *teacher, ptrdiff_t count, int narrow, double *sums,
                           ptrdiff_t stride)
{
    const vec b = vset(row->beta), rest = vset(1 - row->beta);
    vec of_teacher = vset(0), of_student = vset(0);

    for (ptrdiff_t c = 0; c < count; c += LL_LANES) {
        vec_pair at = load_pair(row, student, teacher, c, count - c, narrow);
        vec p = at.p, q = at.q, d = at.d, back = vsub(vset(0), d);
        if (which == LL_FORWARD)
            of_teacher = vadd(of_teacher, exp_gap(q, p, d));
        else if (which == LL_REVERSE)
            of_student = vadd(of_student, exp_gap(p, q, back));
        else {
            vec apart = vsub(p, q), u = vmul(rest, expm1_of(d)), v = vmul(b, expm1_of(back));
            of_teacher = vadd(of_teacher, log_gap(q, vmul(rest, apart), u));
            of_student = vadd(of_student, log_gap(p, vmul(b, vsub(q, p)), v));
        }
    }
    sums[0] += vsum(of_teacher);
    sums[stride] += vsum(of_student);
}

void LL_DIVERGENCE(const divergence_row *row, const void *student, const void *teacher,
                   ptrdiff_t count, int narrow, double *sums, ptrdiff_t stride)
{
    if (row->beta == 0)
        add_terms(LL_FORWARD, row, student, teacher, count, narrow, sums, stride);
    else if (row->beta == 1)
        add_terms(LL_REVERSE, row, student, teacher, count, narrow, sums, stride);
    else
        add_terms(LL_BETWEEN, row, student, teacher, count, narrow, sums, stride);
}

/* By the student's logits: p - q; or p (l - sum p l) with l = d, or (1 - b) log(p / m). */
static inline vec slope(const int which, const divergence_row *row, vec_pair at)
{
    if (which == LL_FORWARD) {
        vec near = vmul(at.q, expm1_of(at.d));
        return vselect(is_near(at.d), near, vsub(at.p, at.q));
    }
    if (which == LL_REVERSE)
        return vmul_zero(at.p, vsub(at.d, vset(row->mean)));
    vec v = vmul(vset(row->beta), expm1_of(vsub(vset(0), at.d)));
    vec l = vsub(vset(-row->mean), log1p_of(v));
    return vmul(vset(1 - row->beta), vmul_zero(at.p, l));
}

LL_TEMPLATE void find_slopes(const int which, const divergence_row *row, const void *student,
                             const void *teacher, ptrdiff_t count, int narrow, void *slopes)
{
    double part[LL_LANES];

    for (ptrdiff_t c = 0; c < count; c += LL_LANES) {
        vec_pair at = load_pair(row, student, teacher, c, count - c, narrow);
        vstore(part, vmul(vset(row->factor), slope(which, row, at)));
        for (ptrdiff_t i = 0; i < least(LL_LANES, count - c); i++)
            if (narrow)
                ((float *)slopes)[c + i] = (float)part[i];
            else
                ((double *)slopes)[c + i] = part[i];
    }
}

void LL_DIVERGENCE_SLOPES(const divergence_row *row, const void *student, const void *teacher,
                          ptrdiff_t count, int narrow, void *slopes)
{
    if (row->beta == 0)
        find_slopes(LL_FORWARD, row, student, teacher, count, narrow, slopes);
    else if (row->beta == 1)
        find_slopes(LL_REVERSE, row, student, teacher, count, narrow, slopes);
    else
        find_slopes(LL_BETWEEN, row, student, teacher, count, narrow, slopes);
}

#endif

/* Of heads whose states are finished. */
static divergence_row row_of_pair(const ll_job *student, const ll_job *teacher, double beta,
                                  ptrdiff_t i)
{
    const ll_state *s = &student->output.state, *t = &teacher->output.state;

    return (divergence_row){ (double)field(s, LL_MAX)[i], (double)field(s, LL_REST)[i],
                             (double)field(t, LL_MAX)[i], (double)field(t, LL_REST)[i],
                             beta, 0, 0 };
}

static void divergence(const ll_job *student, const ll_job *teacher, double beta, double *sums,
                       ptrdiff_t stride)
{
    const ptrdiff_t row = tile_row(student->n);

    for (ptrdiff_t c = student->first; c < student->last; c += LL_BLOCK)
        for (ptrdiff_t i = 0; i < student->rows; i++) {
            divergence_row pair = row_of_pair(student, teacher, beta, i);
            LL_DIVERGENCE(&pair, kept_tile(student, c) + i * row, kept_tile(teacher, c) + i * row,
                          least(LL_BLOCK, student->last - c), LL_REAL == 32, sums + i, stride);
        }
}
